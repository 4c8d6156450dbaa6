"""Which registered versions to release: a pure decision, so that no version is ever released twice."""

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Seen:
    """What was seen of the registry at the last look."""

    versions: frozenset[str]
    aliased: str | None

    def dump(self) -> str:
        return json.dumps({"versions": sorted(self.versions), "aliased": self.aliased})

    @classmethod
    def load(cls, cursor: str | None) -> "Seen | None":
        if not cursor:
            return None
        fields = json.loads(cursor)
        return cls(frozenset(fields["versions"]), fields["aliased"])


def to_release(before: Seen | None, now: Seen, started: frozenset[str]) -> list[str]:
    """The versions to release, oldest first: those that are new and the one the alias moved to.

    At the first look only the aliased one is a candidate: whatever else is registered has a history of its
    own. `started` are versions with a release run, by whoever started it; they are never among the answers.
    """
    candidates = set(now.versions - before.versions) if before else set[str]()
    if now.aliased is not None and (before is None or now.aliased != before.aliased):
        candidates.add(now.aliased)
    return sorted(candidates - started, key=_age)


def _age(version: str) -> tuple[int, str]:
    return (int(version), "") if version.isdigit() else (0, version)
