"""Where the peers of this benchmark lie."""

from pathlib import Path

from tests.benchmarks.harness.peers import Peer

FOLDER = Path(__file__).parent
KIT = FOLDER.parent / "kit"


def plain(name: str, kind: type[Peer] = Peer) -> Peer:
    """The peer in the folder `name`."""
    return kind(name, FOLDER / name, KIT)
