"""One part of the benchmark, from a shell: it prints a table, and writes results.json only with --save."""

import argparse

from tests.benchmarks.harness.rounds import Effort
from tests.benchmarks.serving.scenarios import SCENARIOS, run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.serving", description=__doc__)
    parser.add_argument("--only", default=",".join(SCENARIOS), help="scenarios, with commas")
    parser.add_argument("--peers", default="", help="peers, with commas; ours are not added by themselves")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement")
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    peers = [name for name in given.peers.split(",") if name]
    for scenario in given.only.split(","):
        figures = run(scenario, Effort(given.rounds, given.seconds), peers, kept=given.save)
        for name, told in {**figures.get("peers", {}), **figures.get("ways", {})}.items():
            if "failed" in told:
                print(f"{name}: {told['failed']}")


main()
