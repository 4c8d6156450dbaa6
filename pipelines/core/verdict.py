"""Judgements as values: what was decided about which artifact, why, and on which numbers."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

Outcome = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class Verdict:
    """The judgement of one gate. `subject` is the SHA-256 or tag of what was judged."""

    gate: str
    outcome: Outcome
    subject: str
    reasons: tuple[str, ...]
    numbers: Mapping[str, float | int | str | bool | None] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """True only for a pass: too little evidence is not a pass."""
        return self.outcome == "pass"

    @property
    def why(self) -> str:
        return "; ".join(self.reasons)

    def save(self, folder: Path) -> "Verdict":
        """Keep the verdict beside what it judges, where its check and the deployment read it."""
        (folder / _file(self.gate)).write_text(json.dumps(asdict(self), indent=2) + "\n")
        return self

    @classmethod
    def load(cls, folder: Path, gate: str) -> "Verdict":
        """Read what `save` wrote. Raises FileNotFoundError where nothing was judged yet."""
        return cls.from_dict(json.loads((folder / _file(gate)).read_text()))

    @classmethod
    def from_dict(cls, fields: Mapping) -> "Verdict":
        return cls(**{**fields, "reasons": tuple(fields["reasons"])})


def _file(gate: str) -> str:
    return f"{gate}.verdict.json"


def judge(gate: str, subject: str, failures: list[str], praise: str, **numbers) -> Verdict:
    """A pass with `praise` as its reason when there are no `failures`, else a fail with them."""
    outcome: Outcome = "fail" if failures else "pass"
    return Verdict(gate, outcome, subject, tuple(failures) or (praise,), numbers)
