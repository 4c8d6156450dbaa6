"""What a canary must not do worse, as data, and what can be said of it at one moment.

Each guardrail allows so much of one effect. Harm is proved once even the least possible effect is more, at
whatever look; harmlessness once even the largest is not, and enough was seen. What is missing, makes no sense
or is not known well enough is inconclusive and never harmless.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from pipelines.core.errors import SettingsInvalid
from pipelines.core.rollout import effects
from pipelines.core.rollout.effects import Effect
from pipelines.core.rollout.observation import Arm, Observation

Outcome = Literal["harm", "harmless", "inconclusive"]


class Guardrail(ABC):
    """One effect with what is allowed of it, and what its excess is called."""

    name: str
    harm: ClassVar[str]

    @abstractmethod
    def effect(self, stable: Arm, canary: Arm, share: float, alpha: float) -> Effect | str:
        """Between bounds, each of which holds at all looks with probability 1 - alpha; or why there is none.
        `share` of the requests is meant for the canary."""


@dataclass(frozen=True)
class ErrorRate(Guardrail):
    """The share of requests that fail may rise by `max_increase`, such as 0.01."""

    max_increase: float
    name: str = field(default="error_rate", init=False)
    harm: ClassVar[str] = "the canary fails more often"

    def __post_init__(self) -> None:
        _require(
            0 <= self.max_increase < 1, "max_increase", self.max_increase, "write a fraction such as 0.01"
        )

    def effect(self, stable: Arm, canary: Arm, share: float, alpha: float) -> Effect | str:
        return effects.error_rate(stable, canary, self.max_increase, alpha)


@dataclass(frozen=True)
class Latency(Guardrail):
    """A quantile of latency, such as 0.99, may be `max_ratio` times that of stable, such as 1.5."""

    quantile: float
    max_ratio: float
    name: str = field(default="", init=False)
    harm: ClassVar[str] = "the canary is slower"

    def __post_init__(self) -> None:
        _require(0 < self.quantile < 1, "quantile", self.quantile, "write a fraction such as 0.99")
        _require(1 <= self.max_ratio < math.inf, "max_ratio", self.max_ratio, "write 1 or more, such as 1.5")
        object.__setattr__(self, "name", f"latency_p{100 * self.quantile:g}")

    def effect(self, stable: Arm, canary: Arm, share: float, alpha: float) -> Effect | str:
        return effects.latency(stable, canary, self.quantile, self.max_ratio, alpha)


@dataclass(frozen=True)
class Predictions(Guardrail):
    """The share of answers up to any value may move by `max_distance`, such as 0.1."""

    max_distance: float
    name: str = field(default="predictions", init=False)
    harm: ClassVar[str] = "the canary answers differently"

    def __post_init__(self) -> None:
        _require(
            0 <= self.max_distance < 1, "max_distance", self.max_distance, "write a fraction such as 0.1"
        )

    def effect(self, stable: Arm, canary: Arm, share: float, alpha: float) -> Effect | str:
        return effects.predictions(stable, canary, self.max_distance, alpha)


@dataclass(frozen=True)
class Metric(Guardrail):
    """The mean of a metric of labels or of the business may get worse by `margin`, in its own unit. Values
    that lie `between` two limits, such as 0 and 1, are judged exactly; others by what holds in the long
    run."""

    name: str
    better: Literal["higher", "lower"]
    margin: float
    between: tuple[float, float] | None = None
    harm: ClassVar[str] = "the canary does worse"

    def __post_init__(self) -> None:
        _require(self.better in ("higher", "lower"), "better", self.better, "write higher or lower")
        _require(0 <= self.margin < math.inf, "margin", self.margin, "write 0 or more, in the metric's unit")
        low, high = self.between or (0, 1)
        _require(-math.inf < low < high < math.inf, "between", self.between, "write the lower limit first")

    def effect(self, stable: Arm, canary: Arm, share: float, alpha: float) -> Effect | str:
        return effects.metric(self.name, self.better, self.between, stable, canary, self.margin, alpha)


@dataclass(frozen=True)
class Split(Guardrail):
    """The canary's share of the requests may be off the planned one by `tolerance` of it: users who always
    meet the same release do not all send equally much."""

    tolerance: float = 0.2
    name: str = field(default="split", init=False)
    harm: ClassVar[str] = "traffic does not arrive as planned"

    def __post_init__(self) -> None:
        _require(0 <= self.tolerance < 1, "tolerance", self.tolerance, "write a fraction such as 0.2")

    def effect(self, stable: Arm, canary: Arm, share: float, alpha: float) -> Effect | str:
        return effects.split(stable, canary, share, self.tolerance, alpha)


@dataclass(frozen=True)
class Finding:
    """What one guardrail says. `numbers` are the bounds of the effect, what is allowed and the alpha; None is
    without end."""

    name: str
    outcome: Outcome
    why: str
    numbers: Mapping[str, float | None] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Assessment:
    """One look: harm if any guardrail finds it, harmless if all do, and there are any."""

    findings: tuple[Finding, ...]

    @property
    def outcome(self) -> Outcome:
        outcomes = {finding.outcome for finding in self.findings}
        if "harm" in outcomes:
            return "harm"
        return "harmless" if outcomes == {"harmless"} else "inconclusive"

    @property
    def why(self) -> str:
        """The sentences of the findings that decided."""
        decisive = [finding.why for finding in self.findings if finding.outcome == self.outcome]
        return "; ".join(decisive) or "the plan has no guardrails"


def judge(
    observation: Observation, guardrails: Sequence[Guardrail], alpha: float, min_requests: int
) -> Assessment:
    """All guardrails at one look. Over all looks of a step, a canary that does nothing worse than is allowed
    is found harmful with probability `alpha` at most, which the guardrails share equally; one that does
    worse is found harmless by its guardrail with no more than that share. Harmless takes `min_requests` of
    what is counted in each arm."""
    return Assessment(
        tuple(_find(one, observation, alpha / len(guardrails), min_requests) for one in guardrails)
    )


def _find(guardrail: Guardrail, look: Observation, alpha: float, min_requests: int) -> Finding:
    effect = _objection(look, guardrail)
    if look.stable and look.canary and not effect:
        effect = guardrail.effect(look.stable, look.canary, look.canary_share, alpha)
    if not isinstance(effect, Effect):
        return Finding(guardrail.name, "inconclusive", f"{guardrail.name}: {effect}")
    bounds = {"low": effect.low, "high": effect.high, "allowed": effect.allowed, "alpha": alpha}
    numbers = {key: value if math.isfinite(value) else None for key, value in bounds.items()}
    if effect.low > effect.allowed:
        return Finding(guardrail.name, "harm", f"{guardrail.harm}: {effect}", numbers)
    if effect.high > effect.allowed:
        return Finding(guardrail.name, "inconclusive", f"not certain yet: {effect}", numbers)
    if effect.counted < min_requests:
        few = f"{effect.counted:,.0f} of {min_requests:,} seen so far: {effect}"
        return Finding(guardrail.name, "inconclusive", few, numbers)
    return Finding(guardrail.name, "harmless", str(effect), numbers)


def _objection(look: Observation, guardrail: Guardrail) -> str | None:
    """Why the arms can't be compared at all. Only the split can do with an arm that got nothing."""
    for name, arm in {"stable": look.stable, "the canary": look.canary}.items():
        if arm is None:
            return f"nothing is known of {name}"
        if not 0 <= arm.errors <= arm.requests < math.inf:
            return f"the counts of {name} make no sense: {arm.errors} errors of {arm.requests} requests"
        if not arm.requests and not isinstance(guardrail, Split):
            return f"{name} has not answered a request yet"
    return None


def _require(holds: bool, setting: str, value: object, mend: str) -> None:
    if not holds:
        raise SettingsInvalid(setting, value, mend)
