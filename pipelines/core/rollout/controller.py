"""What is done next in a rollout, decided from what is known at one moment and nothing else.

    start ─▶ running ◀─▶ held ─▶ promoted       the new release has all users and is stable from now on
                │          │
                ├──────────┴───▶ rolled_back    harm, a canary that is gone, or no certainty by the deadline
                └──────────────▶ ended          an experiment was concluded; all users are with stable

Harm rolls back at once, as does a canary that stays away longer than the grace, or comes and goes. What is
missing, makes no sense or does not arrive as planned holds a step, and what holds at its deadline is rolled
back. Only a step in which every guardrail is satisfied leads to the next. Nothing is remembered outside of
`State`: one that was saved is continued as if it had never been put away, and the same look twice changes
nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pipelines.core.rollout.effects import Effect
from pipelines.core.rollout.guardrails import Assessment, Guardrail, Split, judge
from pipelines.core.rollout.observation import Observation
from pipelines.core.rollout.plan import Plan, Step

Action = Literal["hold", "set_weight", "promote", "roll_back", "end"]
Phase = Literal["running", "held", "promoted", "rolled_back", "ended"]
ANY_ALPHA = 0.5
"""Where only what was counted matters."""


@dataclass(frozen=True)
class Taken:
    """A decision that changed something; `step` and `weight` are those after it."""

    at: float
    action: Action
    step: int
    weight: float
    why: str


@dataclass(frozen=True)
class State:
    """A rollout between two looks.

    step             index into the steps of the plan
    weight, mirrored the share of users that get the new release, and of requests that it gets a copy of: what
                     traffic is set to, by whoever resumes too
    why              the sentence of the latest decision
    since, at        when the step began, and the latest that the caller's clock has shown, in seconds: one
                     that goes backwards stands still until it has caught up
    gone_since       when the canary was first found gone, and later by twice the time that it was back since;
                     None once it was back for as long as it had been gone
    history          what was done, oldest first
    """

    step: int
    weight: float
    mirrored: float
    phase: Phase
    why: str
    since: float
    at: float
    gone_since: float | None = None
    history: tuple[Taken, ...] = ()

    @property
    def seconds(self) -> float:
        """For how long the step goes on."""
        return self.at - self.since

    @property
    def is_over(self) -> bool:
        return self.phase in ("promoted", "rolled_back", "ended")

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "State":
        return cls(**{**found, "history": tuple(Taken(**taken) for taken in found["history"])})


@dataclass(frozen=True)
class Decision:
    """What is to be done, why, and where that leaves the rollout. After any but `hold`, traffic is set to
    `state.weight` and `state.mirrored`; `assessment` is what was found, None where nothing was judged."""

    state: State
    action: Action
    why: str
    assessment: Assessment | None = None

    @property
    def findings(self) -> list[dict[str, Any]]:
        """As JSON has them; none where nothing was judged."""
        return [each.to_dict() for each in self.assessment.findings] if self.assessment else []


def start(plan: Plan, now: float) -> Decision:
    """The first step begins."""
    return _enter(State(0, 0.0, 0.0, "running", "", now, now), plan, 0, "the rollout starts")


def advance(state: State, plan: Plan, look: Observation, now: float) -> Decision:
    """One look at the step that goes on: counts since `state.since`, timed by the clock of `now`."""
    if state.is_over:
        return Decision(state, "hold", state.why)
    state, step = _seen(state, look, max(state.at, now)), plan.steps[state.step]
    if foreign := _foreign(state, step, look):
        return _hold(state, step, "held", foreign) if state.seconds else Decision(state, "hold", foreign)
    found = judge(look, step.guardrails, plan.alpha_of_step, step.min_requests)
    return replace(_decide(state, plan, step, look, found), assessment=found)


def roll_back(state: State, why: str, now: float) -> Decision:
    """All users are with stable again, whatever the phase: also what a person asks for."""
    return _finish(replace(state, at=max(state.at, now)), "rolled_back", "roll_back", 0.0, why)


def _decide(state: State, plan: Plan, step: Step, look: Observation, found: Assessment) -> Decision:
    splits = [one.name for one in step.guardrails if isinstance(one, Split)]
    harm = [each.why for each in found.findings if each.outcome == "harm" and each.name not in splits]
    if harm:
        return roll_back(state, "; ".join(harm), state.at)
    gone = None if state.gone_since is None else state.at - state.gone_since
    if gone is not None and gone >= plan.grace_seconds:
        why = f"the canary has been gone for {gone:.0f} seconds, less those that it was back"
        return roll_back(state, why, state.at)
    doubts, waits = _doubts(state, plan, look, found), _waits(state, step, look, found)
    if doubts or waits:
        return _hold(state, step, "held" if doubts else "running", "; ".join(doubts + waits))
    why = f"{step} did no harm: {'; '.join(each.why for each in found.findings)}"
    if state.step + 1 < len(plan.steps):
        return _enter(state, plan, state.step + 1, why)
    return _finish(state, "ended", "end", 0.0, why)


def _seen(state: State, look: Observation, at: float) -> State:
    """Whether the canary is there; where nothing is known of stable either, that is not known. One that comes
    and goes is as bad as one that is gone: it was back for nothing unless for as long."""
    gone_since = state.gone_since
    if look.canary and gone_since is not None:
        gone = (state.at - gone_since) - (at - state.at)
        gone_since = at - gone if gone > 0 else None
    elif look.stable and not look.canary and gone_since is None:
        gone_since = at
    return replace(state, at=at, gone_since=gone_since)


def _foreign(state: State, step: Step, look: Observation) -> str | None:
    """Why these can't be counts of this step."""
    if not math.isclose(look.canary_share, step.canary_share, abs_tol=1e-9):
        share, planned = 100 * look.canary_share, 100 * step.canary_share
        return f"what is known is of a canary with {share:.3g} % of the requests, not {planned:.3g} %"
    if look.seconds > 0 and state.seconds == 0:
        return "what is known is of the step before"
    return None


def _doubts(state: State, plan: Plan, look: Observation, found: Assessment) -> list[str]:
    """What is wrong with what is known: it is of another time, missing, or not split as planned."""
    timed = abs(state.seconds - look.seconds) <= plan.max_age_seconds
    off = f"what is known is of {look.seconds:.0f} seconds, and {state.seconds:.0f} have passed"
    broken = [each.why for each in found.findings if each.outcome == "harm" or not each.numbers]
    return broken if timed else [off, *broken]


def _waits(state: State, step: Step, look: Observation, found: Assessment) -> list[str]:
    """What is only a matter of time and traffic."""
    seconds = min(state.seconds, look.seconds)
    early = f"{seconds:.0f} of at least {step.min_seconds:g} seconds have passed"
    waits = [early] * (seconds < step.min_seconds)
    for guardrail, finding in zip(step.guardrails, found.findings, strict=True):
        uncertain = finding.outcome == "inconclusive" and finding.numbers
        if uncertain and (step.must_prove(guardrail.name) or not _is_counted(guardrail, step, look)):
            waits.append(finding.why)
    return waits


def _is_counted(guardrail: Guardrail, step: Step, look: Observation) -> bool:
    """Whether as much was counted as is asked for, whatever it says."""
    if not (look.stable and look.canary):
        return False
    effect = guardrail.effect(look.stable, look.canary, step.canary_share, ANY_ALPHA)
    return isinstance(effect, Effect) and effect.counted >= step.min_requests


def _hold(state: State, step: Step, phase: Phase, why: str) -> Decision:
    """Nothing changes, unless the deadline has come."""
    if state.seconds >= step.max_seconds:
        late = f"after {state.seconds:.0f} seconds, of {step.max_seconds:g} at most, it is still uncertain"
        return roll_back(state, f"{late}: {why}", state.at)
    return Decision(replace(state, phase=phase, why=why), "hold", why)


def _enter(state: State, plan: Plan, index: int, why: str) -> Decision:
    step = plan.steps[index]
    state = replace(state, step=index)
    if step.kind == "full":
        return _finish(state, "promoted", "promote", 1.0, why)
    state = replace(state, mirrored=step.mirrored, phase="running", since=state.at)
    return _taken(state, "set_weight", step.users, why)


def _finish(state: State, phase: Phase, action: Action, weight: float, why: str) -> Decision:
    return _taken(replace(state, phase=phase, mirrored=0.0), action, weight, why)


def _taken(state: State, action: Action, weight: float, why: str) -> Decision:
    taken = Taken(state.at, action, state.step, weight, why)
    return Decision(replace(state, weight=weight, why=why, history=(*state.history, taken)), action, why)
