"""Figures of a load test, and when they are good enough, too bad, or worth nothing."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.core.errors import LoadTestInvalid
from pipelines.core.latency import Samples, Stage, arrivals, judge_load, percentile, summarise

GOOD = Stage("peak", 100, 10, 1000, 1000, 0, 2.0, 9.0, 12.0, 100.0, 0.5)


def judged(*stages: Stage):
    return judge_load(stages, p99_limit_ms=50, max_error_rate=0.001, subject="tag")


def test_arrivals_are_poisson_and_the_same_for_a_seed():
    times = arrivals(rate_rps=500, seconds=40, seed=7)
    gaps = np.diff(times)
    assert len(times) == pytest.approx(20_000, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)
    assert times[-1] < 40
    assert np.array_equal(times, arrivals(500, 40, 7)) and not np.array_equal(times, arrivals(500, 40, 8))


def test_arrivals_are_never_empty():
    assert len(arrivals(rate_rps=0.01, seconds=0.1, seed=0)) == 1


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [(range(1, 101), 99, 99), (range(1, 101), 50, 50), ([7], 99, 7), ([], 99, 0)],
)
def test_percentile_is_a_value_that_was_measured(values, percent, expected):
    assert percentile(np.array(values, dtype=float), percent) == expected


def test_summary_of_a_stage():
    samples = Samples(
        intended_s=np.array([0.0, 1.0, 2.0, 3.0]),
        sent_s=np.array([0.0, 1.001, 2.006, 3.0]),
        latency_ms=np.array([10.0, 20.0, 30.0, 900.0]),
        status=np.array([200, 200, 200, 503]),
    )
    stage = summarise("peak", 1, 4, planned=5, samples=samples)
    assert (stage.planned, stage.requests, stage.errors, stage.error_rate) == (5, 4, 1, 0.4)
    assert (stage.p50_ms, stage.p99_ms, stage.max_ms) == (20, 30, 30)
    assert stage.throughput_rps == pytest.approx(3 / 3.9)
    assert stage.lag_p99_ms == pytest.approx(6)


def test_summary_where_nothing_was_answered_is_of_the_failures():
    samples = Samples(np.zeros(2), np.zeros(2), np.array([5.0, 6.0]), np.zeros(2, dtype=int))
    stage = summarise("peak", 1, 2, 2, samples)
    assert (stage.p99_ms, stage.error_rate, stage.throughput_rps) == (6, 1, 0)


def test_good_stages_pass():
    verdict = judged(GOOD, replace(GOOD, name="twice", rate_rps=200, p99_ms=49.9))
    assert verdict.passed and verdict.gate == "within_slo" and verdict.subject == "tag"
    assert verdict.why == "p99 49.9 ms at 200/s (twice), limit 50 ms; 0 of 2000 requests failed"
    assert verdict.numbers["p99_ms twice"] == 49.9


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"p99_ms": 50.1}, "p99 is 50.1 ms at 100/s (peak), the limit 50 ms"),
        ({"errors": 2}, "2 of 1000 requests failed at 100/s (peak) (0.20%), the limit is 0.10%"),
        ({"requests": 400, "errors": 1}, "601 of 1000 requests failed at 100/s (peak) (60.10%)"),
        ({"requests": 0, "p99_ms": 0.0}, "1000 could not be sent"),
    ],
)
def test_each_broken_promise_fails_with_its_numbers(change, reason):
    verdict = judged(replace(GOOD, name="ok"), replace(GOOD, **change))
    assert verdict.outcome == "fail" and reason in verdict.why


@pytest.mark.parametrize("change", [{"lag_p99_ms": 25.1}, {"lag_p99_ms": 5.1, "p99_ms": 50.1}])
def test_generator_that_fell_behind_voids_the_test(change):
    with pytest.raises(LoadTestInvalid, match="the generator itself was"):
        judged(GOOD, replace(GOOD, **change))


def test_a_pass_stands_although_the_generator_lagged_a_little():
    assert judged(replace(GOOD, lag_p99_ms=24.9)).passed
