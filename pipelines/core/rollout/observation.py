"""What is known of a rollout at one moment: counts of each arm since the step began."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

ArmName = Literal["stable", "canary"]


@dataclass(frozen=True)
class Moments:
    """A metric of labels or of the business, one value a request or user: number, sum, sum of squares."""

    count: int
    total: float
    squares: float


@dataclass(frozen=True)
class Arm:
    """One side of a comparison, counted since the step began; nothing is ever taken off.

    requests, errors   answered by this release, errors among them
    latencies          how many took at most so many ms, by ascending upper ends; the last end is infinite
    predictions        how many answers fell into each bin of the reference's answers
    metrics            by name
    """

    requests: int
    errors: int
    latencies: Sequence[tuple[float, int]] = ()
    predictions: Sequence[int] = ()
    metrics: Mapping[str, Moments] = field(default_factory=dict)


@dataclass(frozen=True)
class Observation:
    """A look at a rollout, `seconds` after its step began. An arm that nobody could tell of is None: what is
    missing is never healthy. `canary_share` is what was planned."""

    seconds: float
    canary_share: float
    stable: Arm | None
    canary: Arm | None
