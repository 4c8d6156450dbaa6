"""One part of the benchmark, from a shell: it prints a table, and writes results.json only with --save."""

import argparse
from importlib import import_module

from tests.benchmarks.harness.machine import facts
from tests.benchmarks.harness.report import save
from tests.benchmarks.harness.rounds import Effort
from tests.benchmarks.serving import RESULTS, SCENARIOS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.serving", description=__doc__)
    parser.add_argument("--only", default=",".join(SCENARIOS), help="scenarios, with commas")
    parser.add_argument("--peers", help="peers, with commas; ours are not added by themselves")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement")
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    for name in given.only.split(","):
        machine = facts()
        chosen = [tuple(given.peers.split(","))] if given.peers else []
        figures = import_module(f"tests.benchmarks.serving.{name}").measure(
            Effort(given.rounds, given.seconds), *chosen
        )
        for peer, told in figures.get("peers", figures.get("ways", {})).items():
            if "failed" in told:
                print(f"{peer}: {told['failed']}")
        if given.save:
            save(RESULTS, name, machine, figures)


main()
