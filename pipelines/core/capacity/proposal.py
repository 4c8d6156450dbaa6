"""The plan that was derived from a demand, what else was tried, and why this one."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from bentos.manifest import Plan

PROPOSAL_FILE = "proposal.json"


@dataclass(frozen=True)
class Demand:
    """What was promised: the p99 of a request and the share that may fail, up to a peak of requests."""

    peak_rps: float
    p99_ms: float
    max_error_rate: float


@dataclass(frozen=True)
class Tried:
    """A plan that was simulated at `rate_rps`.

    cores             that its sessions use
    goodput_rps       answers within the promised p99
    mean_batch, busy  rows of a batch; the share of the time that sessions run
    meets             whether p99 and errors are within the promise, with the margin of a prediction
    """

    workers: int
    threads: int
    replicas: int
    max_batch_size: int
    padded_batch_sizes: tuple[int, ...]
    cores: int
    rate_rps: float
    p99_ms: float
    error_rate: float
    goodput_rps: float
    mean_batch: float
    busy: float
    meets: bool


@dataclass(frozen=True)
class Proposal:
    """`met`: whether the plan keeps the promise at twice the expected peak; else it is the best that can.

    tried     all that was simulated on the way, in that order; the last is what the plan does
    reasons   why the plan is as it is, in sentences
    advice    where it is not met: what would have to change, each of them alone
    """

    plan: Plan
    met: bool
    tried: tuple[Tried, ...]
    reasons: tuple[str, ...]
    advice: tuple[str, ...] = ()

    def save(self, folder: Path) -> None:
        (folder / PROPOSAL_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Proposal":
        """What `save` wrote. Raises FileNotFoundError."""
        found = json.loads((folder / PROPOSAL_FILE).read_text())
        sentences = {name: tuple(found[name]) for name in ("reasons", "advice")}
        tried = (
            Tried(**{**each, "padded_batch_sizes": tuple(each["padded_batch_sizes"])})
            for each in found["tried"]
        )
        return cls(Plan.from_dict(found["plan"]), found["met"], tuple(tried), **sentences)
