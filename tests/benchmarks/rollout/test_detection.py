"""What a simulated controller must keep to. SEATRIAL_BENCH_QUICK=1 takes few runs; figures are published by
`python -m tests.benchmarks.rollout --save`."""

import os

import pytest

from tests.benchmarks.rollout.detection import ALPHA, detection, false_alarms
from tests.benchmarks.rollout.worlds import BAD

QUICK = bool(os.environ.get("SEATRIAL_BENCH_QUICK"))
MAX_RATIO = 0.25


@pytest.fixture(scope="module")
def stopped():
    return detection(20 if QUICK else 200)["canaries"]


def test_good_canaries_are_left_alone_by_plans_that_allow_nothing():
    worlds = false_alarms(100 if QUICK else 2000)["worlds"]
    assert all(plans["nothing_allowed"].get("any", 0) <= ALPHA for plans in worlds.values()), worlds


@pytest.mark.parametrize("rps", [100, 300])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_canary_gets_a_quarter_of_what_fixed_windows_give_it(stopped, name, rps):
    assert stopped[f"{name} at {rps}/s"]["ratio"] <= MAX_RATIO
