"""Lines of the ledger, and the chain that they form: each holds the digest of the one before, so that none
can be changed, left out or put in without a trace.

Haber and Stornetta, "How to time-stamp a digital document" (1991).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from pipelines.core.release import Release

Action = Literal[
    "deployed", "started", "moved", "promoted", "rolled_back", "ended", "restored", "alias_moved"
]
"""deployed      all at once, without a rollout
started       a rollout begins; `release` is the canary
moved         its traffic changes
promoted      it ends, and `release`, the canary, is in production
rolled_back   it ends, and nothing has changed; `release` is the canary
ended         the same for an experiment that was concluded
restored      `release`, which was in production before, is so again
alias_moved   the registry says what is in production"""
TAKES_OVER: tuple[Action, ...] = ("deployed", "promoted", "restored")
CONCLUDES: tuple[Action, ...] = ("promoted", "rolled_back", "ended")
NOTHING = "0" * 64
"""What stands for the digest before the first entry."""


@dataclass(frozen=True)
class Entry:
    """One line of the ledger.

    sequence   1, 2, 3, … over all models
    at         UTC, ISO 8601 with milliseconds
    rollout    the sequence of the `started` that it belongs to; its own for `started`; None: to none
    details    what else there is to say: plan, state, assessment, why
    previous   the digest of the entry before
    digest     of all this
    """

    sequence: int
    at: str
    model: str
    action: Action
    release: Release | None = None
    rollout: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    previous: str = NOTHING
    digest: str = ""

    def body(self) -> dict[str, Any]:
        """All but the digest, as JSON has it."""
        found = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "digest"}
        return {**found, "release": self.release.to_dict() if self.release else None}


def text_of(entry: Entry) -> str:
    """What the digest is taken of: sorted keys, no spaces, no NaN."""
    return json.dumps(entry.body(), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def entry_of(text: str, digest: str) -> Entry:
    """From what is kept. Raises ValueError, KeyError, TypeError where that is damaged."""
    found = json.loads(text)
    release = Release.from_dict(found["release"]) if found["release"] else None
    return Entry(**{**found, "release": release}, digest=digest)


def first_fault(kept: Iterable[tuple[str, str]]) -> str | None:
    """What is wrong with the chain of (text, digest), oldest first: a sentence, or None where it holds."""
    before = NOTHING
    for sequence, (text, digest) in enumerate(kept, 1):
        if digest_of(text) != digest:
            return f"entry {sequence} was changed after it was written"
        entry = entry_of(text, digest)
        if entry.sequence != sequence:
            return f"entry {sequence} is missing: {entry.sequence} comes in its place"
        if entry.previous != before:
            return f"entry {sequence} does not follow from the one before"
        before = digest
    return None
