"""A rollback that was rehearsed: how long it took, what it cost, and whether that is good enough."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.core.verdict import Verdict, judge

DRILL_FILE = "drill.json"
REHEARSED = "rollback_rehearsed"
LIMIT_SECONDS = 5.0


@dataclass(frozen=True)
class Drill:
    """A rollback under load, apart from production.

    stable, canary        release ids; the same where there was no other release to go back to
    requests, failed      of clients all through the drill
    of_canary             answers of the canary before the command; None where they can't be told apart
    seconds_to_zero       from the command until the router confirmed that nobody is sent to the canary
    seconds_to_answered   from the command to the last answer of the canary
    at                    when it was, UTC, ISO 8601
    """

    stable: str
    canary: str
    requests: int
    failed: int
    of_canary: int | None
    seconds_to_zero: float
    seconds_to_answered: float
    at: str

    def save(self, folder: Path) -> None:
        (folder / DRILL_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Drill":
        """What `save` wrote. Raises FileNotFoundError."""
        return cls(**json.loads((folder / DRILL_FILE).read_text()))


def judge_drill(drill: Drill, subject: str, limit_seconds: float = LIMIT_SECONDS) -> Verdict:
    """Whether nobody noticed and it was soon over. `subject` is the tag of the bento."""
    numbers = {name: value for name, value in asdict(drill).items() if name not in ("stable", "canary", "at")}
    numbers["limit_seconds"] = limit_seconds
    if not drill.requests or drill.of_canary == 0:
        thin = "the new release got no request, so there was nothing to take back"
        return Verdict(REHEARSED, "inconclusive", subject, (thin,), numbers)
    failures = []
    if drill.failed:
        failures.append(f"{drill.failed} of {drill.requests} requests failed")
    if not (took := max(drill.seconds_to_zero, drill.seconds_to_answered)) <= limit_seconds:
        failures.append(f"it took {took:.2f} s, more than {limit_seconds:g} s")
    praise = (
        f"{drill.seconds_to_zero * 1000:.0f} ms to the router's confirmation, "
        f"{drill.seconds_to_answered * 1000:.0f} ms to the last answer of the new release, "
        f"0 of {drill.requests} requests failed"
    )
    return judge(REHEARSED, subject, failures, praise, **numbers)
