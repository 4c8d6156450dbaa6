"""The parts of the benchmark by name, each run alike."""

from collections.abc import Sequence
from functools import partial
from importlib import import_module

from tests.benchmarks.harness.report import measured, show
from tests.benchmarks.harness.rounds import Effort
from tests.benchmarks.serving import RESULTS

SCENARIOS = ("tiny", "binary", "overload", "texts", "batcher")


def run(scenario: str, effort: Effort, peers: Sequence[str] = (), kept: bool = False) -> dict:
    """The figures of one of SCENARIOS, with all its peers or these; kept in results.json or only printed."""
    module = import_module(f"tests.benchmarks.serving.{scenario}")
    measure = partial(_batcher, module, effort) if scenario == "batcher" else partial(module.measure, effort)
    if peers and scenario != "batcher":
        measure = partial(measure, tuple(peers))
    return measured(RESULTS, scenario, measure, kept)


def _batcher(module, effort: Effort) -> dict:
    figures = module.compare(effort.rounds, effort.seconds)
    ratios = {key: ratio["median"] for key, ratio in figures["ours_to_cork"].items()}
    told = {**figures, "ours_to_cork": ratios}
    show(
        "the batcher alone, beside BentoML's",
        [{"figure": key, **{who: told[who][key] for who in told}} for key in ratios],
    )
    return figures
