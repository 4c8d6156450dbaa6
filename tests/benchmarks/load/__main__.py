"""From a shell: it prints a table, and writes results.json only with --save."""

import argparse
from functools import partial

from tests.benchmarks.harness.report import measured
from tests.benchmarks.harness.rounds import Effort
from tests.benchmarks.load import RESULTS
from tests.benchmarks.load.generators import k6, measure


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.load", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one measurement")
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    if k6() is None:
        parser.error("k6 is not installed; put it on PATH, or name it in the variable K6")
    effort = Effort(given.rounds, given.seconds)
    measured(RESULTS, "generators", partial(measure, effort), given.save)


main()
