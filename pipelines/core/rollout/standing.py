"""How a model stands by its ledger: what is in production, what was before, and which rollout goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from pipelines.core.entries import CONCLUDES, TAKES_OVER, Action, Entry
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
    former              what `production` took the place of, which one can go back to; None: nothing
    rollouts            all of them, oldest first
    by                  the action by which it came into production
    last                the sequence of the model's last entry; 0 where there is none
    """

    production: Release | None = None
    since: str | None = None
    by: Action | None = None
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
    return reduce(next_standing, history, Standing())


def next_standing(before: Standing, entry: Entry) -> Standing:
    """How the model stands after one more entry. Raises one of DAMAGED where that can't be understood."""
    found = replace(before, rollouts=_rollouts(before, entry), last=entry.sequence)
    if entry.action not in TAKES_OVER or entry.release is None:
        return found
    if before.production and before.production.release_id == entry.release.release_id:
        return replace(found, production=entry.release)  # it serves on, on newer evidence
    return replace(found, production=entry.release, since=entry.at, by=entry.action, former=before.production)


def _rollouts(before: Standing, entry: Entry) -> tuple[Rollout, ...]:
    if entry.action == "started":
        return (*before.rollouts, _begun(before, entry))
    for index in reversed(range(len(before.rollouts))):
        if before.rollouts[index].number == entry.rollout:
            moved = _moved(before.rollouts[index], entry)
            return (*before.rollouts[:index], moved, *before.rollouts[index + 1 :])
    return before.rollouts


def _begun(before: Standing, entry: Entry) -> Rollout:
    if entry.release is None or before.production is None:
        raise ValueError("a rollout needs a release to try, and one in production")
    setting = {name: value for name, value in entry.details.items() if name not in ("plan", "state")}
    plan, state = Plan.from_dict(entry.details["plan"]), State.from_dict(entry.details["state"])
    return Rollout(entry.sequence, entry.at, entry.release, before.production, plan, state, setting)


def _moved(rollout: Rollout, entry: Entry) -> Rollout:
    state = State.from_dict(entry.details["state"]) if "state" in entry.details else rollout.state
    return replace(
        rollout, state=state, outcome=entry.action if entry.action in CONCLUDES else rollout.outcome
    )
