"""When requests are due, and the figures of those that were sent: what they say and what they can't."""

from dataclasses import replace

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from pipelines.core.latency import (
    Offer,
    Samples,
    Stage,
    fell_behind,
    histogram,
    percentile,
    quantile_interval,
    summarise,
)

GOOD = Stage("peak", 100, 10, 1000, 1000, 0, 0, 2.0, 9.0, 8.5, 9.5, 12.0, 0.0, 100.0, 0.5)


def samples(latency_ms: np.ndarray, status: int = 200) -> Samples:
    count = len(latency_ms)
    return Samples(np.zeros(count), np.zeros(count), latency_ms, np.full(count, status))


def test_arrivals_are_poisson_and_the_same_for_a_seed():
    offer = Offer("peak", rate_rps=500, seconds=40)
    times = offer.times(seed=7)
    gaps = np.diff(times)
    assert len(times) == pytest.approx(20_000, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)
    assert (gaps >= 0).all() and times[-1] < 40
    assert np.array_equal(times, offer.times(7)) and not np.array_equal(times, offer.times(8))


def test_constant_arrivals_are_a_gap_apart():
    times = Offer("peak", 50, 2, arrivals="constant").times(seed=1)
    assert len(times) == 100
    np.testing.assert_allclose(np.diff(times), 1 / 50)


@pytest.mark.parametrize("arrivals", ["poisson", "constant"])
@pytest.mark.parametrize("rate_rps", [0.01, 3, 700])
def test_arrivals_are_never_empty_and_never_late(arrivals, rate_rps):
    times = Offer("peak", rate_rps, 0.1, arrivals=arrivals).times(seed=0)
    assert len(times) >= 1 and times[0] >= 0 and times[-1] <= 0.1 + 1e-9


@pytest.mark.parametrize("arrivals", ["poisson", "constant"])
@pytest.mark.parametrize(("rate_rps", "to_rps"), [(100, 900), (900, 100), (0, 1000), (500, 500)])
def test_a_ramp_goes_evenly_from_one_rate_to_another(arrivals, rate_rps, to_rps):
    offer = Offer("ramp", rate_rps, 40, to_rps, arrivals)
    times = offer.times(seed=3)
    assert offer.mean_rps == (rate_rps + to_rps) / 2
    assert len(times) == pytest.approx(offer.mean_rps * 40, rel=0.03)
    counted, edges = np.histogram(times, bins=8, range=(0, 40))
    middles = (edges[1:] + edges[:-1]) / 2
    expected = (rate_rps + (to_rps - rate_rps) * middles / 40) * 5
    np.testing.assert_allclose(counted, expected, atol=6 * np.sqrt(expected.max()) + 1)


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [(range(1, 101), 99, 99), (range(1, 101), 50, 50), ([7], 99, 7), ([], 99, 0)],
)
def test_percentile_is_a_value_that_was_measured(values, percent, expected):
    assert percentile(np.array(values, dtype=float), percent) == expected


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_the_interval_of_a_quantile_holds_the_true_one_in_95_of_100_runs(share):
    rng, true = np.random.default_rng(5), -np.log(1 - share)
    runs = np.sort(rng.exponential(size=(2000, 3000)))
    held = np.mean([low <= true <= high for low, high in (quantile_interval(run, share) for run in runs)])
    assert held == pytest.approx(0.95, abs=0.02)


def test_the_interval_narrows_with_more_samples():
    few, many = (np.sort(np.random.default_rng(1).exponential(size=count)) for count in (1000, 100_000))
    (few_low, few_high), (many_low, many_high) = quantile_interval(few, 0.99), quantile_interval(many, 0.99)
    assert many_high - many_low < (few_high - few_low) / 5


def test_few_samples_bound_no_high_quantile():
    low, high = quantile_interval(np.arange(50.0), 0.99)
    assert low < 49 and high == np.inf
    assert quantile_interval(np.array([]), 0.99) == (0, 0)


def test_summary_of_a_stage():
    given = Samples(
        intended_s=np.array([0.0, 1.0, 2.0, 3.0, 3.5]),
        sent_s=np.array([0.0, 1.001, 2.006, 3.0, 3.5]),
        latency_ms=np.array([10.0, 20.0, 30.0, 900.0, 4.0]),
        status=np.array([200, 201, 200, 0, 429]),
    )
    stage = summarise(Offer("peak", 1, 4), planned=6, samples=given, cpu_seconds=0.001)
    assert (stage.planned, stage.requests, stage.errors, stage.refused) == (6, 5, 2, 1)
    assert (stage.name, stage.rate_rps, stage.seconds, stage.error_rate) == ("peak", 1, 4, 0.5)
    assert (stage.p50_ms, stage.p99_ms, stage.max_ms, stage.refused_p99_ms) == (20, 30, 30, 4)
    assert stage.p99_low_ms <= 30 and stage.p99_high_ms == np.inf
    assert stage.throughput_rps == pytest.approx(3 / 3.9)
    assert stage.lag_p99_ms == pytest.approx(6) and stage.cpu_us == pytest.approx(200)


def test_a_ramp_is_named_by_its_mean_rate():
    assert summarise(Offer("ramp", 10, 4, to_rps=30), 80, samples(np.ones(80))).rate_rps == 20


def test_summary_where_nothing_was_answered_is_of_the_failures():
    stage = summarise(Offer("peak", 1, 2), 2, samples(np.array([5.0, 6.0]), status=0))
    assert (stage.p99_ms, stage.error_rate, stage.throughput_rps, stage.refused) == (6, 1, 0, 0)


def test_summary_where_nothing_was_sent():
    stage = summarise(Offer("peak", 1, 2), 2, samples(np.array([])))
    assert (stage.requests, stage.p99_ms, stage.error_rate, stage.cpu_us) == (0, 0, 1, 0)


@pytest.mark.parametrize("change", [{"lag_p99_ms": 25.1}, {"lag_p99_ms": 5.1, "p99_ms": 50.1}])
def test_a_generator_that_fell_behind_says_nothing_of_the_service(change):
    says = fell_behind(replace(GOOD, **change), p99_limit_ms=50)
    assert says and says.startswith("at 100/s the generator itself was")


@pytest.mark.parametrize("change", [{}, {"lag_p99_ms": 24.9}, {"lag_p99_ms": 4.9, "p99_ms": 50.1}])
def test_a_little_lag_can_only_make_the_service_look_slower(change):
    assert fell_behind(replace(GOOD, **change), p99_limit_ms=50) is None


def test_the_histogram_says_what_the_samples_say():
    latency_ms = np.random.default_rng(2).lognormal(2, 1, size=20_003)
    status = np.where(np.arange(20_003) % 10, 200, 503)
    given = replace(samples(latency_ms), status=status)
    read = HdrHistogram.decode(histogram(given))
    assert read.get_total_count() == given.ok.sum()
    for percent in (50, 90, 99):
        exact_us = percentile(latency_ms[given.ok], percent) * 1000
        assert read.get_value_at_percentile(percent) == pytest.approx(exact_us, rel=0.002)


def test_histograms_of_runs_add_up():
    one, other = histogram(samples(np.full(10, 1.0))), histogram(samples(np.full(5, 100.0)))
    both = HdrHistogram.decode(one)
    both.decode_and_add(other)
    assert both.get_total_count() == 15 and both.get_max_value() >= 99_900
