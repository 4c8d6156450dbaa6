"""Intervals that hold at every look: how often they fail over all looks, and what they withstand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from pipelines.core.rollout.means import mean_difference, mean_difference_within
from pipelines.core.rollout.observation import Moments
from pipelines.core.rollout.quantiles import ENDS_MS, quantile_bin, quantile_ratio
from pipelines.core.rollout.sequential import RARE, difference, evidence, rate
from pipelines.core.rollout.spreads import distance

ALPHA = 0.1
RUNS = 1000
LOOKS = np.unique(np.geomspace(1, 600, 60).astype(int)) - 1
"""Of 600 seconds; the early ones, where most goes wrong, are all among them."""
COUNTS = st.integers(0, 10**9)


def arms(rng: np.random.Generator, runs: int = RUNS, seconds: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Requests a second of stable and of the canary, (runs, seconds): 100 a second, of which a tenth."""
    return rng.poisson(90, (runs, seconds)), rng.poisson(10, (runs, seconds))


def looks(counts: np.ndarray) -> np.ndarray:
    """What has been counted at each of LOOKS, by run."""
    return counts.cumsum(1)[:, LOOKS]


def misses(wrong: np.ndarray) -> float:
    """The share of runs with a wrong bound at any look."""
    return float(wrong.any(1).mean())


def least_likely(share: float, runs: int = RUNS) -> float:
    """A share that one of at most `share` exceeds in a thousandth of all tests."""
    return share + 3.1 * np.sqrt(share * (1 - share) / runs)


@pytest.mark.parametrize("p", [0.0005, 0.02, 0.5])
def test_a_rate_stays_between_its_bounds_at_all_looks(p):
    rng = np.random.default_rng(1)
    requests = arms(rng)[1]
    found = rate(looks(rng.binomial(requests, p)), looks(requests), ALPHA)
    assert misses(found.low > p) <= least_likely(ALPHA) and misses(found.high < p) <= least_likely(ALPHA)


@pytest.mark.parametrize("p", [0.0005, 0.02, 0.5])
@pytest.mark.parametrize("rise", [0.0, 0.03])
def test_a_difference_stays_between_its_bounds_at_all_looks(p, rise):
    rng = np.random.default_rng(2)
    stable, canary = arms(rng)
    errors = looks(rng.binomial(stable, p)), looks(rng.binomial(canary, p + rise))
    found = difference(errors[0], looks(stable), errors[1], looks(canary), ALPHA, RARE)
    assert misses(found.low > rise) <= least_likely(ALPHA) and misses(found.high < rise) <= least_likely(
        ALPHA
    )


def test_bursts_of_errors_in_both_arms_are_no_difference():
    rng = np.random.default_rng(3)
    stable, canary = arms(rng)
    p = np.where(rng.random(stable.shape) < 0.02, 0.3, 0.001)
    found = difference(
        looks(rng.binomial(stable, p)),
        looks(stable),
        looks(rng.binomial(canary, p)),
        looks(canary),
        ALPHA,
        RARE,
    )
    assert misses(found.low > 0) <= least_likely(ALPHA)


def test_a_difference_is_the_least_that_all_the_evidence_leaves():
    """Found by an optimizer that knows nothing of pulls."""

    def left(rates):
        return np.log(1 / ALPHA) - evidence(15, 300, rates[1], RARE) - evidence(2, 900, rates[0], RARE)

    inside = {"type": "ineq", "fun": left}
    best = minimize(
        lambda rates: 100 * (rates[1] - rates[0]), (0.003, 0.05), constraints=inside, bounds=[(1e-6, 0.9)] * 2
    )
    assert difference(2, 900, 15, 300, ALPHA, RARE).low == pytest.approx(best.fun / 100, rel=1e-3)


def test_nothing_seen_says_nothing():
    assert (rate(0, 0, ALPHA).low, rate(0, 0, ALPHA).high) == (0, 1)
    assert (difference(0, 0, 0, 0, ALPHA).low, difference(0, 0, 0, 0, ALPHA).high) == (-1, 1)


@settings(deadline=None)
@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_bounds_of_any_counts_are_in_order(errors, successes, canary_errors, canary_successes):
    for prior in (RARE, (0.5, 0.5)):
        found = difference(
            errors, errors + successes, canary_errors, canary_errors + canary_successes, 0.01, prior
        )
        assert -1 <= found.low <= found.high <= 1
    alone = rate(errors, errors + successes, 0.01)
    assert 0 <= alone.low <= alone.high <= 1
    if errors + successes:
        assert alone.low <= errors / (errors + successes) + 1e-12 and alone.high >= alone.low


def test_bounds_of_a_billion_requests_are_narrow():
    found = difference(10**6, 9 * 10**8, 10**5 + 10**5, 10**8, 0.01)
    seen = 2 * 10**5 / 10**8 - 10**6 / (9 * 10**8)
    assert found.low < seen < found.high and found.high - found.low < 1e-4


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(0, 200))
def test_a_further_hit_never_lowers_a_rate(hits, others):
    trials = hits + others + 1
    fewer, more = rate(hits, trials, 0.01), rate(hits + 1, trials, 0.01)
    assert more.low >= fewer.low - 1e-12 and more.high >= fewer.high - 1e-12


def histogram(samples_ms: np.ndarray) -> list[tuple[float, int]]:
    counts = np.histogram(samples_ms, (0, *ENDS_MS))[0].cumsum()
    return list(zip(ENDS_MS, counts.tolist(), strict=True))


@pytest.mark.parametrize("quantile", [0.5, 0.95, 0.99])
def test_a_ratio_of_quantiles_stays_between_its_bounds_at_all_looks(quantile):
    rng = np.random.default_rng(4)
    wrong, ratio, runs = [], 1.3, 150
    for _ in range(runs):
        stable, canary = rng.lognormal(3, 0.6, 9000), ratio * rng.lognormal(3, 0.6, 1000)
        seen = [quantile_ratio(histogram(stable[: 9 * n]), histogram(canary[:n]), quantile, ALPHA)
                for n in (10, 30, 60, 100, 200, 400, 1000)]  # fmt: skip
        wrong.append([found.low > ratio or found.high < ratio for found in seen])
    assert misses(np.array(wrong)) <= least_likely(2 * ALPHA, runs)


def test_bins_can_be_no_closer_than_they_are():
    """A million requests of 11 and of 19 ms are all in the bin from 10 to 20 ms."""
    coarse = [(10.0, 0), (20.0, 10**6), (np.inf, 10**6)]
    found = quantile_ratio(coarse, coarse, 0.99, ALPHA)
    assert (found.low, found.high) == (0.5, 2.0)
    assert quantile_bin(coarse, 0.99) == (10.0, 20.0)


def test_a_quantile_beyond_the_last_finite_end_has_no_bound():
    open_ended, fast = [(10.0, 0), (np.inf, 10**6)], [(10.0, 10**6), (np.inf, 10**6)]
    slow = quantile_ratio(fast, open_ended, 0.99, ALPHA)
    assert slow.low == 1.0 and slow.high == np.inf
    assert quantile_ratio(open_ended, open_ended, 0.99, ALPHA).low == 0.0


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**8), min_size=12, max_size=12).filter(any), st.sampled_from([0.5, 0.99]))
def test_ratios_of_any_histograms_are_in_order(counts, quantile):
    ends = (*np.geomspace(1, 1e4, 11), np.inf)
    one, other = (list(zip(ends, np.cumsum(part), strict=True)) for part in (counts, counts[::-1]))
    found = quantile_ratio(one, other, quantile, 0.01)
    assert 0 <= found.low <= found.high


def test_a_distance_stays_between_its_bounds_at_all_looks():
    rng = np.random.default_rng(5)
    shares, moved = np.full(10, 0.1), np.full(10, 0.1) + np.repeat([-0.02, 0.02], 5)
    wrong = []
    for _ in range(150):
        stable, canary = rng.multinomial(90, shares, 100).cumsum(0), rng.multinomial(10, moved, 100).cumsum(0)
        seen = [distance(stable[at], canary[at], ALPHA) for at in (0, 2, 5, 9, 19, 39, 69, 99)]
        wrong.append([found.low > 0.1 or found.high < 0.1 for found in seen])
    assert misses(np.array(wrong)) <= least_likely(2 * ALPHA, 150)


def moments(values: np.ndarray) -> Moments:
    return Moments(len(values), float(values.sum()), float((values * values).sum()))


@pytest.mark.parametrize("draw", ["normal", "lognormal", "rare"])
def test_a_mean_stays_between_its_bounds_at_all_looks(draw):
    rng = np.random.default_rng(6)
    made = {
        "normal": lambda n: rng.normal(5, 2, n),
        "lognormal": lambda n: rng.lognormal(0, 1.0, n),
        "rare": lambda n: (rng.random(n) < 0.01) * 50.0,
    }[draw]
    wrong = []
    for _ in range(RUNS):
        stable, canary = made(27_000), made(3000)
        seen = [mean_difference(moments(stable[: 9 * n]), moments(canary[:n]), ALPHA)
                for n in (100, 120, 150, 200, 300, 500, 1000, 2000, 3000)]  # fmt: skip
        wrong.append([found.low > 0 or found.high < 0 for found in seen])
    assert misses(np.array(wrong)) <= least_likely(2 * ALPHA)


def test_values_between_limits_are_judged_like_the_hits_they_are():
    right = Moments(900, 450.0, 450.0), Moments(100, 80.0, 80.0)
    found, hits = mean_difference_within(*right, (0, 1), ALPHA), difference(450, 900, 80, 100, ALPHA)
    assert (found.low, found.high) == (pytest.approx(float(hits.low)), pytest.approx(float(hits.high)))
    doubled = [Moments(arm.count, 2 * arm.total - arm.count, arm.count) for arm in right]
    assert mean_difference_within(*doubled, (-1, 1), ALPHA).low == pytest.approx(2 * found.low)


def test_values_that_never_vary_are_not_told_apart_by_rounding():
    same = Moments(10**6, 10**6 * 0.1, 10**6 * 0.01), Moments(10**5, 10**5 * 0.1 + 1e-7, 10**5 * 0.01)
    found = mean_difference(*same, ALPHA)
    assert found.low < 0 < found.high
