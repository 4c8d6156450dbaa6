"""One part of the benchmark, from a shell: it prints a table, and writes results.json only with --save."""

import argparse
from importlib import import_module

from tests.benchmarks.capacity import RESULTS
from tests.benchmarks.harness.machine import facts
from tests.benchmarks.harness.report import save
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
        machine, module = facts(), import_module(f"tests.benchmarks.capacity.{scenario}")
        figures = module.measure(Effort(given.rounds, given.seconds), *([nets] if nets else []))
        if given.save:
            save(RESULTS, scenario, machine, figures)


if __name__ == "__main__":
    main()
