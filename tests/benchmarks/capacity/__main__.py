"""One part of the benchmark, from a shell: it prints a table, and writes results.json only with --save."""

import argparse
from functools import partial
from importlib import import_module

from tests.benchmarks.capacity import RESULTS
from tests.benchmarks.harness.report import measured
from tests.benchmarks.harness.rounds import Effort

SCENARIOS = ("prediction", "derived")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.capacity", description=__doc__)
    parser.add_argument("--only", default=",".join(SCENARIOS), help="scenarios, with commas")
    parser.add_argument("--nets", default="", help="nets, with commas")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0, help="of one measurement")
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    nets = [name for name in given.nets.split(",") if name]
    for scenario in given.only.split(","):
        module = import_module(f"tests.benchmarks.capacity.{scenario}")
        effort = Effort(given.rounds, given.seconds)
        measured(RESULTS, scenario, partial(module.measure, effort, *([nets] if nets else [])), given.save)


if __name__ == "__main__":
    main()
