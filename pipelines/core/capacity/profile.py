"""What one model costs on one machine: what the plan is made from, and what can be foretold without it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from bentos.manifest import Cost

PROFILE_FILE = "profile.json"


@dataclass(frozen=True)
class Profile:
    """Costs of one ONNX file on one machine.

    subject     the SHA-256 of the file
    machine     the processor's name; `cores` are those that this process may use
    device      cpu or cuda
    costs       ms of a batch, from rows of JSON to answers, by rows and length, by the threads of its
                session, which had the machine alone
    crowding    how many times as long it takes beside others: on CPUs by the threads of such sessions, which
                keep all cores busy, on a GPU by the number of sessions that share it
    lengths     of rows drawn from the reference, along dimensions of any length; empty where there are none
    request_us  CPU time of the event loop for a request of one row, beside its batch: validation, answer
    extra_ms    what an idle service takes beyond all that, as ascending quantiles at even distances: sockets,
                supervisors, the machine's hiccups. Empty until a load test has seen it
    spread      run times as multiples of the cost, as ascending quantiles at even distances; empty: always 1
    """

    subject: str
    machine: str
    cores: int
    device: str
    costs: Mapping[int, tuple[Cost, ...]]
    crowding: Mapping[int, float]
    lengths: tuple[int, ...] = ()
    request_us: float = 0.0
    extra_ms: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()

    def save(self, folder: Path) -> None:
        (folder / PROFILE_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Profile":
        """What `save` wrote. Raises FileNotFoundError."""
        found = json.loads((folder / PROFILE_FILE).read_text())
        costs = {int(threads): tuple(map(tuple, rows)) for threads, rows in found["costs"].items()}
        crowding = {int(threads): times for threads, times in found["crowding"].items()}
        tuples = {name: tuple(found[name]) for name in ("lengths", "extra_ms", "spread")}
        return cls(**{**found, **tuples, "costs": costs, "crowding": crowding})
