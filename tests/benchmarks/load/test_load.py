"""The load generator beside k6. Figures go to results.json beside this file; what is asserted are ratios that
were measured in one run. SEATRIAL_BENCH_QUICK=1 takes one short round and writes nothing."""

import os
from functools import partial

import pytest

from tests.benchmarks.harness.report import measured
from tests.benchmarks.harness.rounds import Effort
from tests.benchmarks.load import RESULTS
from tests.benchmarks.load.generators import LIMIT, RATES, k6, measure

QUICK = bool(os.environ.get("SEATRIAL_BENCH_QUICK"))


@pytest.fixture(scope="module")
def rates():
    if k6() is None:
        pytest.skip("k6 is not installed: put it on PATH, or name it in the variable K6")
    effort = Effort(1, 2) if QUICK else Effort()
    return measured(RESULTS, "generators", partial(measure, effort), not QUICK)["rates"]


@pytest.mark.parametrize("rate_rps", RATES)
def test_a_request_costs_no_more_than_one_of_k6(rates, rate_rps):
    ratio = rates[str(rate_rps)]["ours_to_k6"]
    assert ratio and ratio["median"] <= LIMIT, rates


@pytest.mark.parametrize("rate_rps", RATES)
def test_what_was_asked_is_sent(rates, rate_rps):
    assert rates[str(rate_rps)]["generators"]["ours"]["sent_share"]["median"] >= 0.99
