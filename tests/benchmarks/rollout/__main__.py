"""Rollouts, simulated and real, from a shell: tables, and results.json only with --save. Some minutes."""

import argparse
from functools import partial

from tests.benchmarks.harness.report import measured
from tests.benchmarks.rollout import RESULTS, detection
from tests.benchmarks.rollout.course import course

SCENARIOS = {
    "false_alarms": (detection.false_alarms, 10_000),
    "detection": (detection.detection, 500),
    "harmlessness": (detection.harmlessness, 100),
    "course": (course, 3),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.rollout", description=__doc__)
    parser.add_argument("--only", default=",".join(SCENARIOS), help="scenarios, with commas")
    parser.add_argument("--runs", type=int, help="of each, in place of as many as were published")
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    for name in given.only.split(","):
        measure, runs = SCENARIOS[name]
        measured(RESULTS, name, partial(measure, given.runs or runs), given.save)


main()
