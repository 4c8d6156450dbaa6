"""Lines of the ledger, and the chain that they form: each holds the digest of the one before, so that none
can be changed, left out or put in without a trace.

Haber and Stornetta, "How to time-stamp a digital document" (1991).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
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
DAMAGED = (ValueError, KeyError, TypeError, AttributeError)
"""What reading something else than an entry raises."""


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


def sealed(entry: Entry) -> Entry:
    """The same with its digest, and as it will be read: tuples in its details are lists by then."""
    text = text_of(entry)
    return entry_of(text, digest_of(text))


def entry_of(text: str, digest: str) -> Entry:
    """From what is kept. Raises one of DAMAGED where that is not an entry."""
    found = json.loads(text)
    release = Release.from_dict(found["release"]) if found["release"] else None
    return Entry(**{**found, "release": release}, digest=digest)


def first_fault(kept: Iterable[Sequence[Any]], head: str = NOTHING) -> str | None:
    """What is wrong with the chain of (sequence, text, digest), oldest first: a sentence, or None where it
    holds and has an entry with the digest `head`. Cutting off its end, and writing all of it anew, are seen
    only by such a digest that was kept elsewhere."""
    before, found = NOTHING, head == NOTHING
    for number, (sequence, text, digest) in enumerate(kept, 1):
        if fault := _fault(number, sequence, str(text), digest, before):
            return fault
        before, found = digest, found or digest == head
    return None if found else f"no entry has the digest {head}: the end was cut off, or all was written anew"


def _fault(number: int, sequence: int, text: str, digest: str, before: str) -> str | None:
    if sequence != number:
        return f"entry {number} is missing: {sequence} comes in its place"
    if digest_of(text) != digest:
        return f"entry {number} was changed after it was written"
    try:
        entry = entry_of(text, digest)
    except DAMAGED:
        return f"entry {number} can't be read"
    if entry.sequence != number:
        return f"entry {number} is in the place of another: it says that it is {entry.sequence}"
    if entry.previous != before:
        return f"entry {number} does not follow from the one before"
    return None
