"""The usual plans: what most rollouts are, with limits that suit most models."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.core.errors import SettingsInvalid
from pipelines.core.rollout.guardrails import ErrorRate, Guardrail, Latency, Predictions, Split
from pipelines.core.rollout.plan import FULL, KINDS, Plan, Step

GUARDRAILS: tuple[Guardrail, ...] = (ErrorRate(0.01), Latency(0.99, 1.5), Predictions(0.1), Split())
WEIGHTS = (0.05, 0.2, 0.5)
DAY = 86_400.0
WEEKS = {"min_seconds": 7 * DAY, "max_seconds": 28 * DAY}


def canary(
    weights: Sequence[float] = WEIGHTS,
    guardrails: tuple[Guardrail, ...] = GUARDRAILS,
    alpha: float = 0.05,
    **pace: Any,
) -> Plan:
    """More users step by step. `pace` are fields of each Step: prove, min_requests, min_seconds,
    max_seconds."""
    return Plan((*(Step("canary", weight, guardrails, **pace) for weight in weights), FULL), alpha)


def blue_green(guardrails: tuple[Guardrail, ...] = GUARDRAILS, alpha: float = 0.05, **pace: Any) -> Plan:
    """All users at once, with stable kept ready until the new release is proved. There is no split to
    test."""
    return Plan((Step("blue_green", 1.0, _without_split(guardrails), **pace), FULL), alpha)


def shadow(
    mirrored: float = 1.0, guardrails: tuple[Guardrail, ...] = GUARDRAILS, alpha: float = 0.05, **pace: Any
) -> Plan:
    """Copies of requests, whose answers nobody gets. Users are not split."""
    return Plan((Step("shadow", mirrored, _without_split(guardrails), **pace),), alpha)


def ab(
    weight: float = 0.5, guardrails: tuple[Guardrail, ...] = GUARDRAILS, alpha: float = 0.05, **pace: Any
) -> Plan:
    """Two releases beside each other for a week at least, as users are not alike on all days (Kohavi, Tang
    and Xu, "Trustworthy Online Controlled Experiments", 2020, chapter 2), and four at most."""
    return Plan((Step("ab", weight, guardrails, **{**WEEKS, **pace}),), alpha)


def in_order(
    kinds: Sequence[str],
    guardrails: tuple[Guardrail, ...] = GUARDRAILS,
    alpha: float = 0.05,
    weights: Sequence[float] = WEIGHTS,
    experiment: Mapping[str, Any] = WEEKS,
    **pace: Any,
) -> Plan:
    """The usual steps of each kind, such as of ["shadow", "canary", "full"]; `weights` are those of canary,
    `experiment` is the pace of ab, as far as it has another. Raises SettingsInvalid."""
    usual = {
        "shadow": lambda: shadow(1.0, guardrails, **pace).steps,
        "canary": lambda: canary(weights, guardrails, **pace).steps[:-1],
        "ab": lambda: ab(0.5, guardrails, **{**pace, **experiment}).steps,
        "blue_green": lambda: blue_green(guardrails, **pace).steps[:-1],
        "full": lambda: (FULL,),
    }
    for kind in kinds:
        if kind not in usual:
            raise SettingsInvalid("kind", kind, f"write one of {', '.join(KINDS)}")
    return Plan(tuple(step for kind in kinds for step in usual[kind]()), alpha)


def _without_split(guardrails: tuple[Guardrail, ...]) -> tuple[Guardrail, ...]:
    return tuple(one for one in guardrails if not isinstance(one, Split))
