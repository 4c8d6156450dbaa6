"""How a model stands by its ledger: what is in production, what was before, and which rollout goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipelines.core.entries import CONCLUDES, TAKES_OVER, Entry
from pipelines.core.release import Release
from pipelines.core.rollout.controller import State
from pipelines.core.rollout.plan import Plan


@dataclass(frozen=True)
class Rollout:
    """One release taking the place of another, as far as the ledger knows.

    number    the sequence of the entry that started it
    setting   what the entry that started it says beside the plan, such as the bins of predictions
    outcome   the action that concluded it; None while it goes on
    """

    number: int
    started_at: str
    canary: Release
    stable: Release
    plan: Plan
    state: State
    setting: Mapping[str, Any]
    outcome: str | None = None

    @property
    def label(self) -> str:
        """Of the step that goes on, in the access log."""
        return f"{self.canary.model}/{self.number}/{self.state.step}"

    @property
    def salt(self) -> str:
        return f"{self.canary.model}/{self.number}"


@dataclass(frozen=True)
class Standing:
    """A model at one moment.

    production, since   what serves by the ledger, and from when on; None where nothing ever did
    former              what `production` took the place of, which one can go back to
    rollouts            all of them, oldest first
    last                the sequence of the model's last entry; 0 where there is none
    """

    production: Release | None = None
    since: str | None = None
    former: Release | None = None
    rollouts: tuple[Rollout, ...] = ()
    last: int = 0

    @property
    def rollout(self) -> Rollout | None:
        """The one that goes on."""
        newest = self.rollouts[-1] if self.rollouts else None
        return newest if newest and newest.outcome is None else None


def standing(history: Sequence[Entry]) -> Standing:
    """Follows from the model's entries, oldest first."""
    found = Standing()
    for entry in history:
        found = _after(found, entry)
    return found


def _after(before: Standing, entry: Entry) -> Standing:
    production, since, former = before.production, before.since, before.former
    if entry.action in TAKES_OVER:
        former = production if production and production != entry.release else former
        production, since = entry.release, entry.at
    return Standing(production, since, former, _rollouts(before, entry), entry.sequence)


def _rollouts(before: Standing, entry: Entry) -> tuple[Rollout, ...]:
    if entry.action == "started":
        assert entry.release and before.production
        setting = {name: value for name, value in entry.details.items() if name not in ("plan", "state")}
        plan = Plan.from_dict(entry.details["plan"])
        state = State.from_dict(entry.details["state"])
        begun = Rollout(entry.sequence, entry.at, entry.release, before.production, plan, state, setting)
        return (*before.rollouts, begun)
    if entry.rollout is None or "state" not in entry.details:
        return before.rollouts
    return tuple(_moved(each, entry) if each.number == entry.rollout else each for each in before.rollouts)


def _moved(rollout: Rollout, entry: Entry) -> Rollout:
    outcome = entry.action if entry.action in CONCLUDES else None
    return replace(rollout, state=State.from_dict(entry.details["state"]), outcome=outcome)
