"""BentoML's batchable API as one gets it who sets nothing: batches of 100 rows, a minute to answer in."""

from pathlib import Path

from tests.benchmarks.serving.peers.bentoml import PEER as TUNED
from tests.benchmarks.serving.peers.bentoml import BentoML


class Stock(BentoML):
    """In the environment of the serving benchmark's peer."""

    def python(self) -> Path:
        return TUNED.python()

    def versions(self) -> list[str]:
        return TUNED.versions()


PEER = Stock("bentoml at its defaults", Path(__file__).parent, TUNED.kit)
