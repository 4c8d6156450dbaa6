"""How much worse the canary is than stable, figure by figure: between two bounds, or why that is unknown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipelines.core.rollout.means import MIN_VALUES, mean_difference, mean_difference_within
from pipelines.core.rollout.observation import Arm, Moments
from pipelines.core.rollout.quantiles import Histogram, quantile_bin, quantile_ratio
from pipelines.core.rollout.sequential import RARE, Bounds, difference, rate
from pipelines.core.rollout.spreads import distance

POINTS, PLAIN = (100.0, " points"), (1.0, "")


@dataclass(frozen=True)
class Effect:
    """How much worse the canary is, between two bounds, and how much is allowed. `seen` tells what was
    counted, `scale` and `unit` how bounds are written, and `counted` is how much the smaller arm has seen."""

    low: float
    high: float
    allowed: float
    seen: str
    scale: float
    unit: str
    counted: float

    def __str__(self) -> str:
        low, high, allowed = (f"{self.scale * value:.3g}" for value in (self.low, self.high, self.allowed))
        most = f" to {high}{self.unit}" if math.isfinite(self.high) else f"{self.unit} or more"
        return f"{self.seen} {low}{most}, where {allowed}{self.unit} is allowed"


def error_rate(stable: Arm, canary: Arm, allowed: float, alpha: float) -> Effect | str:
    """The rise of the share of requests that fail."""
    found = difference(stable.errors, stable.requests, canary.errors, canary.requests, alpha, RARE)
    shares = [f"{100 * arm.errors / arm.requests:.3g} % of {arm.requests:,}" for arm in (canary, stable)]
    seen = f"{shares[0]} requests to the canary and {shares[1]} to stable fail; the rise is"
    return _effect(found, allowed, seen, POINTS, stable.requests, canary.requests)


def latency(stable: Arm, canary: Arm, quantile: float, allowed: float, alpha: float) -> Effect | str:
    """How many times as long a quantile of latency is."""
    for name, arm in {"stable": stable, "the canary": canary}.items():
        if not _is_histogram(arm.latencies):
            return f"the latencies of {name} are missing or no histogram"
    found = quantile_ratio(stable.latencies, canary.latencies, quantile, alpha)
    bins = ["{:g} to {:g} ms".format(*quantile_bin(arm.latencies, quantile)) for arm in (canary, stable)]
    seen = f"the p{100 * quantile:g} is {bins[0]} in the canary and {bins[1]} in stable; the ratio is"
    counted = [arm.latencies[-1][1] for arm in (stable, canary)]
    return _effect(found, allowed, seen, PLAIN, *counted)


def predictions(stable: Arm, canary: Arm, allowed: float, alpha: float) -> Effect | str:
    """How far the answers are spread differently."""
    one, other = (np.array(arm.predictions, float) for arm in (stable, canary))
    if one.shape != other.shape or len(one) < 2:
        return f"the answers are counted in {len(one)} bins of stable and {len(other)} of the canary"
    if not (_are_counts(one) and _are_counts(other)):
        return "the answers of one release are not counted, or their counts make no sense"
    seen = f"of {other.sum():,.0f} and {one.sum():,.0f} answers, the shares up to some value are apart by"
    return _effect(distance(one, other, alpha), allowed, seen, POINTS, one.sum(), other.sum())


def metric(
    name: str,
    better: Literal["higher", "lower"],
    between: tuple[float, float] | None,
    stable: Arm,
    canary: Arm,
    allowed: float,
    alpha: float,
) -> Effect | str:
    """How much worse the mean of a metric is; exact where its values lie `between` two limits."""
    one, other = stable.metrics.get(name), canary.metrics.get(name)
    if one is None or other is None:
        return f"{name} is not known of {'stable' if one is None else 'the canary'}"
    if not (_are_moments(one, between) and _are_moments(other, between)):
        return f"the figures of {name} are missing or make no sense"
    if between is None and min(one.count, other.count) < MIN_VALUES:
        return (
            f"{name} is known {min(one.count, other.count):,} times, and takes {MIN_VALUES} in each release"
        )
    worse = (one, other) if better == "lower" else (other, one)
    found = mean_difference_within(*worse, between, alpha) if between else mean_difference(*worse, alpha)
    means = [f"{arm.total / arm.count:.4g} of {arm.count:,}" for arm in (other, one)]
    seen = f"{name} is {means[0]} in the canary and {means[1]} in stable; the loss is"
    return _effect(found, allowed, seen, PLAIN, one.count, other.count)


def split(stable: Arm, canary: Arm, share: float, tolerance: float, alpha: float) -> Effect | str:
    """How far the canary's share of requests is off the planned one, either way."""
    if not 0 < share < 1:
        return f"a share of {100 * share:g} % leaves no split to test"
    requests = stable.requests + canary.requests
    if not requests:
        return "neither release has answered a request yet"
    found = rate(canary.requests, requests, alpha / 2)
    off = Bounds(max(found.low - share, share - found.high), max(found.high - share, share - found.low))
    seen = f"the canary got {100 * canary.requests / requests:.3g} % of {requests:,} requests"
    return _effect(
        off, tolerance * share, f"{seen} and {100 * share:g} % was planned; it is off by", POINTS, requests
    )


def _effect(bounds: Bounds, allowed: float, seen: str, scale: tuple[float, str], *counted: float) -> Effect:
    return Effect(float(bounds.low), float(bounds.high), allowed, seen, *scale, float(min(counted)))


def _are_counts(counts: Sequence[float] | np.ndarray) -> bool:
    values = np.asarray(counts, float)
    return bool(np.isfinite(values).all() and (values >= 0).all() and values.sum() > 0)


def _is_histogram(latencies: Histogram) -> bool:
    if not latencies:
        return False
    ends, counts = np.array(latencies, float).T
    ascending = (np.diff(ends) > 0).all() and (np.diff(counts) >= 0).all() and ends[0] > 0
    return bool(ascending and ends[-1] == np.inf and _are_counts(counts))


def _are_moments(moments: Moments, between: tuple[float, float] | None) -> bool:
    figures = (moments.count, moments.total, moments.squares)
    if not all(map(math.isfinite, figures)) or moments.count <= 0 or moments.squares < 0:
        return False
    mean = moments.total / moments.count
    return between is None or between[0] <= mean <= between[1]
