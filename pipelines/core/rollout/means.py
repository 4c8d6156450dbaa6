"""How far the mean of a metric of labels or of the business is moved."""

import math

from pipelines.core.rollout.observation import Moments
from pipelines.core.rollout.sequential import Bounds, difference

MIN_VALUES = 100
"""An arm with fewer is too small for what only holds in the long run."""
SHARPEST_AT = 1000
"""The bounds are made to be narrowest at this many values, in the smaller arm."""
ROUNDING = 1e-12
"""As a share of the mean square."""


def mean_difference(stable: Moments, canary: Moments, alpha: float) -> Bounds:
    """The canary's mean minus stable's, of values without known limits; for MIN_VALUES an arm and more. The
    larger variance of the two counts for both: an arm whose few values were alike by chance has not shown
    that it varies less."""
    values = 1 / (1 / stable.count + 1 / canary.count)
    spread = max(deviation(stable), deviation(canary))
    moved = canary.total / canary.count - stable.total / stable.count
    off = spread * reach(values, alpha)
    return Bounds(float(moved - off), float(moved + off))


def reach(values: float, alpha: float) -> float:
    """How far a bound that may be watched lies from a mean, in standard deviations of one value.

    One side of the asymptotic confidence sequence: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas,
    "Time-uniform central limit theory and asymptotic confidence sequences" (2024)."""
    tuned = values * (math.log(1 / alpha**2) + math.log(1 + math.log(1 / alpha**2))) / SHARPEST_AT
    return math.sqrt(2 * (tuned + 1) / (tuned * values) * math.log(1 + math.sqrt(tuned + 1) / (2 * alpha)))


def mean_difference_within(
    stable: Moments, canary: Moments, limits: tuple[float, float], alpha: float
) -> Bounds:
    """The canary's mean minus stable's, of values within `limits`, such as 0 and 1 for wrong and right:
    exact, however few there are. Values between the limits count as fractions of hits (`sequential.rate`)."""
    least, width = limits[0], limits[1] - limits[0]
    hits = [min(max((arm.total - arm.count * least) / width, 0), arm.count) for arm in (stable, canary)]
    found = difference(hits[0], stable.count, hits[1], canary.count, alpha)
    return Bounds(float(found.low * width), float(found.high * width))


def deviation(moments: Moments) -> float:
    """The standard deviation of two values or more; not less than rounding may have left of it in sums of
    squares."""
    square = moments.squares / moments.count
    found = (square - (moments.total / moments.count) ** 2) * moments.count / (moments.count - 1)
    return math.sqrt(max(found, ROUNDING * square))
