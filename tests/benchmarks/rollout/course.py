"""Users on schedule through a canary, its promotion and rollback, a flip, kills, and a release that fails:
the real router, supervisor, controller and ledger (tests/e2e/course.py)."""

from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks.harness.report import show
from tests.e2e.course import run_course

RPS, REQUESTS = 800, 20_000


def course(rounds: int) -> dict:
    """What the users noticed, of each round."""
    found = [_round() for _ in range(rounds)]
    show(f"a course of rollouts at {RPS} requests a second", found)
    return {"rps": RPS, "rounds": found}


def _round() -> dict:
    with TemporaryDirectory() as folder:
        found = run_course(Path(folder), RPS, REQUESTS)
    answers = found.users.answers
    return {
        "requests": len(answers),
        "failed": len(found.failed),
        "met_unready": sum(each.unready for each in answers),
        "moved_back": len(found.moved_back()),
        "met_harm": found.met_harm,
        "detection_to_zero_seconds": round(found.seconds_to_zero, 3),
        "late_p99_seconds": round(sorted(each.late_seconds for each in answers)[int(0.99 * len(answers))], 4),
    }
