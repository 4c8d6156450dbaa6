"""The parts of the benchmark by name, each run alike."""

from collections.abc import Sequence
from importlib import import_module

from tests.benchmarks.harness.machine import facts
from tests.benchmarks.harness.report import save, show
from tests.benchmarks.harness.rounds import Effort
from tests.benchmarks.serving import RESULTS

SCENARIOS = ("tiny", "binary", "overload", "texts", "batcher")


def run(scenario: str, effort: Effort, peers: Sequence[str] = (), kept: bool = False) -> dict:
    """The figures of one of SCENARIOS, with all its peers or these; kept in results.json or only printed."""
    machine, module = facts(), import_module(f"tests.benchmarks.serving.{scenario}")
    if scenario == "batcher":
        figures = module.compare(effort.rounds, effort.seconds)
        ratios = {key: ratio["median"] for key, ratio in figures["ours_to_cork"].items()}
        told = {**figures, "ours_to_cork": ratios}
        rows = [{"figure": key, **{who: told[who][key] for who in told}} for key in ratios]
        show("the batcher alone, beside BentoML's", rows)
    else:
        figures = module.measure(effort, *([tuple(peers)] if peers else []))
    if kept:
        save(RESULTS, scenario, machine, figures)
    return figures
