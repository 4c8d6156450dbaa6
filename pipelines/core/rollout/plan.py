"""How a release takes over, as data: steps with a share of users, what must hold in each, and how long.

A plan that ends with `full` replaces stable. One that ends with `shadow` or `ab` is an experiment: after it,
all users are back with stable. Users only ever join the new release while a plan goes on.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from pipelines.core.errors import SettingsInvalid
from pipelines.core.rollout.guardrails import ErrorRate, Guardrail, Latency, Metric, Predictions, Split

Kind = Literal["shadow", "canary", "ab", "blue_green", "full"]
KINDS: tuple[Kind, ...] = get_args(Kind)
BY_NAME = {
    "error_rate": ErrorRate,
    "latency": Latency,
    "predictions": Predictions,
    "metric": Metric,
    "split": Split,
}


@dataclass(frozen=True)
class Step:
    """One stretch of a rollout.

    kind, weight   the share of users that get the new release; of a shadow, which serves nobody, the share of
                   requests that are mirrored to it
    guardrails     judged against stable over the same time; by blue_green, which leaves stable without
                   traffic, against what stable answered before the flip. Nothing is judged in `full`
    prove          names of guardrails whose harmlessness must be proved, None for all; of the others, harm
                   must not have been found in min_requests
    min_requests   that each arm must have answered, or that the metric must be known of
    min_seconds    before which no step succeeds
    max_seconds    at which what is still uncertain is rolled back
    """

    kind: Kind
    weight: float
    guardrails: tuple[Guardrail, ...] = ()
    prove: tuple[str, ...] | None = None
    min_requests: int = 1000
    min_seconds: float = 60.0
    max_seconds: float = 3600.0

    def __post_init__(self) -> None:
        _require(self.kind in KINDS, "kind", self.kind, f"write one of {', '.join(KINDS)}")
        self._check_weight()
        self._check_guardrails()
        count = self.min_requests
        _require(isinstance(count, int) and count >= 1, "min_requests", count, "write a whole number above 0")
        _require(0 < self.min_seconds < math.inf, "min_seconds", self.min_seconds, "write seconds above 0")
        latest = f"write at least min_seconds, {self.min_seconds:g}"
        _require(self.min_seconds <= self.max_seconds < math.inf, "max_seconds", self.max_seconds, latest)

    @property
    def users(self) -> float:
        """The share of users that get the new release."""
        return 0.0 if self.kind == "shadow" else self.weight

    @property
    def mirrored(self) -> float:
        """The share of requests that the new release gets a copy of."""
        return self.weight if self.kind == "shadow" else 0.0

    @property
    def canary_share(self) -> float:
        """The canary's share of all that is counted, as an `Observation` has it: a mirrored request is
        counted in both arms."""
        return self.weight / (1 + self.weight) if self.kind == "shadow" else self.weight

    def __str__(self) -> str:
        return f"{self.kind} at {100 * self.weight:g} %"

    def must_prove(self, name: str) -> bool:
        return self.prove is None or name in self.prove

    def _check_weight(self) -> None:
        _require(isinstance(self.weight, int | float), "weight", self.weight, "write a number such as 0.05")
        mends = {
            "shadow": (0 < self.weight <= 1, "a shadow mirrors more than 0 and at most all, 1"),
            "canary": (0 < self.weight < 1, "some users, not all, get a canary; write 0.05, say"),
            "ab": (0 < self.weight < 1, "both sides of an A/B need users; write a fraction such as 0.5"),
            "blue_green": (self.weight == 1, "blue_green moves all users at once; write 1"),
            "full": (self.weight == 1, "full is all users; write 1"),
        }
        holds, mend = mends[self.kind]
        _require(holds, "weight", self.weight, mend)

    def _check_guardrails(self) -> None:
        names = [guardrail.name for guardrail in self.guardrails]
        compared = [one for one in self.guardrails if not isinstance(one, Split)]
        _require(len(set(names)) == len(names), "guardrails", names, "name each only once")
        if self.kind == "full":
            _require(not names, "guardrails", names, "full has nothing to compare with; leave them out")
        else:
            _require(bool(compared), "guardrails", names, f"{self.kind} needs one that compares the releases")
        if self.kind == "blue_green":
            _require(len(compared) == len(names), "guardrails", names, "leave out split; blue_green has none")
        for name in self.prove or ():
            _require(name in names, "prove", name, f"write names of its guardrails: {', '.join(names)}")


@dataclass(frozen=True)
class Plan:
    """Steps in order, and what is common to them.

    alpha            the chance that a release that does nothing worse than is allowed is rolled back
    grace_seconds    a canary that is not there is waited for so long
    max_age_seconds  counts that are further off the step's clock, before or ahead, promote nothing
    """

    steps: tuple[Step, ...]
    alpha: float = 0.05
    grace_seconds: float = 10.0
    max_age_seconds: float = 30.0

    def __post_init__(self) -> None:
        kinds = [step.kind for step in self.steps]
        _require(0 < self.alpha < 1, "alpha", self.alpha, "write a fraction such as 0.05")
        for name in ("grace_seconds", "max_age_seconds"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, name, value, "write seconds from 0 on")
        _require(bool(kinds) and kinds[0] != "full", "steps", kinds, "begin with a step that judges")
        _require("full" not in kinds[:-1], "steps", kinds, "nothing can come after full")
        end = "end with full, or with shadow or ab for an experiment that returns to stable"
        _require(kinds[-1] in ("full", "shadow", "ab"), "steps", kinds, end)
        self._check_order()

    @property
    def alpha_of_step(self) -> float:
        """Alpha is spent once: each step that judges begins to count anew and has an equal share, so that
        over all steps the chances of a false alarm add up to alpha at most, whether or not they depend on
        each other (the inequality of Boole and Bonferroni; Dunn, "Multiple comparisons among means",
        1961)."""
        return self.alpha / sum(step.kind != "full" for step in self.steps)

    @property
    def max_seconds(self) -> float:
        """By when the plan is over, however it ends."""
        return sum(step.max_seconds for step in self.steps if step.kind != "full")

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**_plain(self), "steps": [_step_to_dict(step) for step in self.steps]}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "Plan":
        """What `to_dict` made, or a person wrote. Raises SettingsInvalid."""
        return _build(cls, {**found, "steps": _each("steps", found, _step_from_dict)})

    def _check_order(self) -> None:
        for before, after in zip(self.steps, self.steps[1:], strict=False):
            weights = [before.users, after.users]
            _require(weights[0] <= weights[1], "weights", weights, "no step may take users back to stable")
            alike = before.kind == after.kind == "canary" and weights[0] == weights[1]
            _require(not alike, "weights", weights, "each canary takes more users than the one before")


def _plain(value: Any) -> dict[str, Any]:
    """The fields that a constructor takes, tuples as lists."""
    found = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
    return {name: list(each) if isinstance(each, tuple) else each for name, each in found.items()}


def _step_to_dict(step: Step) -> dict[str, Any]:
    names = {made: name for name, made in BY_NAME.items()}
    guardrails = [{"guardrail": names[type(one)], **_plain(one)} for one in step.guardrails]
    return {**_plain(step), "guardrails": guardrails}


def _step_from_dict(found: Mapping[str, Any]) -> Step:
    return _build(Step, {**found, "guardrails": _each("guardrails", found, _guardrail_from_dict)})


def _guardrail_from_dict(found: Mapping[str, Any]) -> Guardrail:
    name = found.get("guardrail")
    made = BY_NAME.get(str(name))
    _require(made is not None, "guardrail", name, f"write one of {', '.join(BY_NAME)}")
    return _build(made, {key: value for key, value in found.items() if key != "guardrail"})


def _each(name: str, found: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Any]) -> tuple:
    items = found.get(name, ())
    proper = isinstance(items, list | tuple) and all(isinstance(item, Mapping) for item in items)
    _require(proper, name, items, "write a list, each with its settings")
    return tuple(map(read, items))


def _build(made: Any, found: Mapping[str, Any]) -> Any:
    names = {field.name for field in fields(made) if field.init}
    for name in found:
        _require(name in names, "setting", name, f"{made.__name__} has {', '.join(sorted(names))}")
    try:
        return made(**{key: tuple(each) if isinstance(each, list) else each for key, each in found.items()})
    except TypeError as wrong:
        raise SettingsInvalid(made.__name__, dict(found), f"correct its settings: {wrong}") from None


def _require(holds: bool, setting: str, value: object, mend: str) -> None:
    if not holds:
        raise SettingsInvalid(setting, value, mend)


FULL = Step("full", 1.0)
