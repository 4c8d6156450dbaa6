"""Intervals that hold at every look at once: a rollout is watched each second, and an interval made for one
look would sooner or later be wrong by chance.

Each is a confidence sequence: the chance that a bound is on the wrong side of the truth at any of all looks
is at most alpha. They follow from e-processes (Ville, 1939; Ramdas, Grünwald, Vovk and Shafer, "Game-
theoretic statistics and safe anytime-valid inference", 2023): the likelihood of what was seen, averaged over
all that the rates might be, is rarely many times that of the true ones. An average over a beta distribution
(Robbins, 1970) leaves nothing but the counts so far, so neither the order of requests nor that of looks
matters.

Requests are taken to be independent within an arm. Rates that change in the course of a step, for both arms
alike, make counts vary less than is reckoned with here (Hoeffding, 1956), not more.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import betaln, xlog1py, xlogy

RARE, ANY = (0.25, 1.0), (0.5, 0.5)
"""The beta distributions that are averaged over: for rates near 0, and for any (Jeffreys). With parameters
above 0 and at most 1, one more hit never lowers the lower bound of a rate."""
HALVINGS = 32
LOG_PULLS = (-12.0, 60.0)


@dataclass(frozen=True)
class Bounds:
    """The truth is at least `low` and at most `high`, each by itself at its alpha; floats or arrays."""

    low: np.ndarray | float
    high: np.ndarray | float


def rate(hits, trials, alpha, prior=ANY) -> Bounds:
    """The share of hits; counts are numbers or arrays. Hits may be fractions: sums of values within [0, 1]
    have the same bounds, as their exponential moments are at most those of hits (Hoeffding, 1963).

    Beta-binomial: Robbins (1970); as it is used for counts, Lindon and Malek, "Anytime-valid inference for
    multinomial count data" (2022)."""
    hits, trials, alpha = _floats(hits, trials, alpha)
    low, high = _least([[hits], [trials - hits]], [trials], [[prior], [prior[::-1]]], alpha)
    return Bounds(low, 1 - high)


def difference(stable_hits, stable_trials, canary_hits, canary_trials, alpha, prior=ANY) -> Bounds:
    """The canary's share of hits minus stable's; as in `rate`.

    What speaks against both rates is multiplied, so that no alpha is split between them: Turner, Ly and
    Grünwald, "Generic E-variables for exact sequential k-sample tests" (2024), in the form of an average over
    the alternatives against the best of the hypothesis (Wasserman, Ramdas and Balakrishnan, 2020)."""
    stable, stable_of, canary, canary_of, alpha = _floats(
        stable_hits, stable_trials, canary_hits, canary_trials, alpha
    )
    sides = [[canary, stable_of - stable], [canary_of - canary, stable]]
    priors = [[prior, prior[::-1]], [prior[::-1], prior]]
    low, high = _least(sides, [canary_of, stable_of], priors, alpha)
    return Bounds(low - 1, 1 - high)


def evidence(hits, trials, rate, prior=ANY):
    """How many times likelier the hits are on average over `prior` than at `rate`, as a logarithm."""
    mixed = betaln(prior[0] + hits, prior[1] + trials - hits) - betaln(*prior)
    return mixed - xlogy(hits, rate) - xlog1py(trials - hits, -rate)


def _least(hits, trials, priors, alpha):
    """The least sum of the arms' rates that the evidence leaves possible: `hits` and `priors` by side and
    arm, `trials` by arm, the answer by side.

    All rates whose evidence together stays below 1 / alpha form a convex set; where their sum is least, each
    arm's log-likelihood rises equally steeply. That slope, the pull, is found by halving on a log scale."""
    hits, trials = np.array(hits), np.array(trials)
    ones, others = np.moveaxis(np.array(priors), -1, 0).reshape((2, *hits.shape[:2]) + (1,) * (hits.ndim - 2))
    mixed = betaln(ones + hits, others + trials - hits) - betaln(ones, others)
    needed = -np.log(alpha) - mixed.sum(1)
    small, large = np.full(needed.shape, LOG_PULLS[0]), np.full(needed.shape, LOG_PULLS[1])
    for _ in range(HALVINGS):
        middle = (small + large) / 2
        rates = _pulled(hits, trials, np.exp(middle)[:, None])
        enough = -(xlogy(hits, rates) + xlog1py(trials - hits, -rates)).sum(1) >= needed
        small, large = np.where(enough, small, middle), np.where(enough, middle, large)
    return _pulled(hits, trials, np.exp(large)[:, None]).sum(1)


def _pulled(hits, trials, pull):
    """The rate below hits / trials at which the log-likelihood rises by `pull`: a root of
    pull · p² - (pull + trials) · p + hits."""
    return 2 * hits / (trials + pull + np.sqrt((trials - pull) ** 2 + 4 * pull * (trials - hits)))


def _floats(*counts):
    return np.broadcast_arrays(*(np.asarray(count, float) for count in counts))
