"""The load generator beside k6. Figures go to results.json beside this file; what is asserted are ratios that
were measured in one run. SEATRIAL_BENCH_QUICK=1 takes one short round and writes nothing."""

import os

import pytest

from tests.benchmarks.harness.machine import facts
from tests.benchmarks.harness.report import save
from tests.benchmarks.harness.rounds import Effort
from tests.benchmarks.load import RESULTS
from tests.benchmarks.load.generators import LIMIT, RATES, k6, measure

QUICK = bool(os.environ.get("SEATRIAL_BENCH_QUICK"))


@pytest.fixture(scope="module")
def measured():
    if k6() is None:
        pytest.skip("k6 is not installed: put it on PATH, or name it in the variable K6")
    machine = facts()
    figures = measure(Effort(1, 2) if QUICK else Effort())
    if not QUICK:
        save(RESULTS, "generators", machine, figures)
    return figures["rates"]


@pytest.mark.parametrize("rate_rps", RATES)
def test_a_request_costs_no_more_than_one_of_k6(measured, rate_rps):
    ratio = measured[str(rate_rps)]["ours_to_k6"]
    assert ratio and ratio["median"] <= LIMIT, measured


@pytest.mark.parametrize("rate_rps", RATES)
def test_what_was_asked_is_sent(measured, rate_rps):
    assert measured[str(rate_rps)]["generators"]["ours"]["sent_share"]["median"] >= 0.99
