"""A rollout as its report gets it: what the ledger says of it, and what was seen look by look.

A folder holds rollout.json, a list of the ledger's entries as `Entry.body()` with the digest: the one that
put stable into production, then those of the rollout; and timeline.jsonl, a look a line, as the controller's
process writes it. Beside them there may be shadow.json (`Agreement`), ab.json (`Experiment`) and drill.json
(`Drill`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core.entries import TAKES_OVER, Entry, digest_of, entry_of, text_of
from pipelines.core.rollout.controller import State
from pipelines.core.rollout.guardrails import Finding
from pipelines.core.rollout.plan import Step
from pipelines.core.rollout.standing import Rollout, standing

ENTRIES_FILE, LOOKS_FILE = "rollout.json", "timeline.jsonl"
ENDS = {
    "set_weight": "did no harm",
    "promote": "did no harm",
    "roll_back": "rolled back",
    "end": "did no harm",
}
GOES_ON = "goes on"


@dataclass(frozen=True)
class Count:
    """Of one release, since the step began."""

    requests: int
    errors: int


@dataclass(frozen=True)
class Look:
    """What was known at one moment, `seconds` after the step began, and the state that followed from it."""

    at: float
    state: State
    seconds: float
    stable: Count | None
    canary: Count | None
    findings: tuple[Finding, ...]

    @property
    def step(self) -> int:
        """The step that was looked at: with the look that ends a step, the state is that of the next."""
        has_left = self.state.phase == "promoted" or (self.state.seconds == 0 and self.seconds > 0)
        return max(0, self.state.step - has_left)


@dataclass(frozen=True)
class Stretch:
    """One step as it went; `last` is the last look at it, None where there was none."""

    index: int
    step: Step
    began: float
    ended: float
    outcome: str
    why: str
    last: Look | None


@dataclass(frozen=True)
class Timeline:
    """All of a rollout, oldest first; `entries` begin with the one that put stable into production."""

    entries: tuple[Entry, ...]
    rollout: Rollout
    looks: tuple[Look, ...]

    @property
    def state(self) -> State:
        """The latest; of a rollout that goes on, the last look's, which has no history."""
        goes_on = self.rollout.outcome is None and bool(self.looks)
        return self.looks[-1].state if goes_on else self.rollout.state

    @property
    def began(self) -> float:
        return self.rollout.state.history[0].at

    @property
    def ended(self) -> float:
        """Or the latest time that is known."""
        return max(self.rollout.state.at, self.looks[-1].at if self.looks else 0.0)

    @property
    def stretches(self) -> Iterator[Stretch]:
        """The steps that were begun."""
        taken = self.rollout.state.history
        for begun, following in zip(taken, [*taken[1:], None], strict=True):
            if begun.action != "set_weight":
                continue
            looks = [look for look in self.looks if look.step == begun.step and look.findings]
            ended, outcome, why = self.ended, GOES_ON, self.state.why
            if following:
                ended, outcome, why = following.at, ENDS[following.action], following.why
            step, last = self.rollout.plan.steps[begun.step], looks[-1] if looks else None
            yield Stretch(begun.step, step, begun.at, ended, outcome, why, last)

    def looks_at(self, stretch: Stretch) -> list[Look]:
        return [look for look in self.looks if look.step == stretch.index]

    @property
    def changed(self) -> tuple[Entry, ...]:
        """Entries that do not have their digest any more."""
        return tuple(each for each in self.entries if digest_of(text_of(each)) != each.digest)


def save(folder: Path, history: Sequence[Entry], number: int) -> None:
    """Write rollout.json from the model's entries in the ledger, oldest first; `number` is the sequence of
    the rollout's `started`."""
    before = [each for each in history if each.sequence < number and each.action in TAKES_OVER]
    its_own = [each for each in history if number in (each.sequence, each.rollout)]
    kept = [{**each.body(), "digest": each.digest} for each in [*before[-1:], *its_own]]
    (folder / ENTRIES_FILE).write_text(json.dumps(kept, indent=2) + "\n")


def load(folder: Path) -> Timeline:
    """What `save` and the controller's process wrote; without looks where there is no timeline.jsonl.

    Raises FileNotFoundError without rollout.json."""
    kept = json.loads((folder / ENTRIES_FILE).read_text())
    digests = [each.pop("digest") for each in kept]
    entries = tuple(entry_of(json.dumps(each), digest) for each, digest in zip(kept, digests, strict=True))
    looks = folder / LOOKS_FILE
    lines = looks.read_text().splitlines() if looks.exists() else []
    return Timeline(entries, standing(entries).rollouts[-1], tuple(_looks(lines)))


def _looks(lines: Sequence[str]) -> Iterator[Look]:
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:  # its writer was killed in the middle of a line
            continue
        state = State(**found["state"])
        counts = [_count(found[name]) for name in ("stable", "canary")]
        findings = tuple(Finding(**each) for each in found["findings"])
        yield Look(found["at"], state, found["seconds"], counts[0], counts[1], findings)


def _count(found: Mapping[str, Any] | None) -> Count | None:
    return Count(found["requests"], found["errors"]) if found else None
