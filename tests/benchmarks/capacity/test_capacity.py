"""What plans promise, and what comes of them. Figures go to results.json beside this file; what is asserted
are ratios that were measured in one run. SEATRIAL_BENCH_QUICK=1 takes one short round and writes nothing."""

import os
from collections.abc import Callable
from functools import partial

import pytest

from tests.benchmarks.capacity import RESULTS, derived, prediction
from tests.benchmarks.harness.report import measured
from tests.benchmarks.harness.rounds import Effort

QUICK = bool(os.environ.get("SEATRIAL_BENCH_QUICK"))


def nets(scenario: str, measure: Callable[[Effort], dict], effort: Effort) -> dict:
    effort = Effort(1, 4) if QUICK else effort
    return measured(RESULTS, scenario, partial(measure, effort), not QUICK)["nets"]


@pytest.fixture(scope="module")
def compared():
    return nets("derived", derived.measure, Effort())


@pytest.fixture(scope="module")
def foretold():
    return nets("prediction", prediction.measure, Effort(3, 15))


@pytest.mark.parametrize("net", derived.CASES)
def test_a_derived_plan_beats_bentoml_s_defaults(compared, net):
    assert compared[net]["ours_to_bentoml"]["median"] > derived.LIMIT


@pytest.mark.parametrize("net", prediction.CASES)
@pytest.mark.parametrize(
    ("figure", "limit"),
    [("p99_ms", prediction.LIMITS["p99"]), ("rps", prediction.LIMITS["throughput"])],
)
def test_what_is_foretold_is_what_comes(foretold, net, figure, limit):
    ratios = {name: of["median"] for name, of in foretold[net].items() if name.startswith(f"{figure}_ratio_")}
    assert ratios and {name: ratio for name, ratio in ratios.items() if abs(ratio - 1) > limit} == {}
