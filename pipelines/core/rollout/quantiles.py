"""How many times as long a quantile of latency is in the canary, when all one has are histograms."""

from collections.abc import Sequence

import numpy as np

from pipelines.core.rollout.sequential import RARE, Bounds, evidence

ENDS_MS = (*(float(f"{0.1 * 1.1**step:.4g}") for step in range(146)), np.inf)
"""Bins fine enough to be judged by, 0.1 ms to 100 s in steps of 10 %: a ratio can't be told more closely than
by the bins of both quantiles."""

Histogram = Sequence[tuple[float, int]]
"""How many took at most so many ms, by ascending ends, of which the last is infinite."""


def quantile_ratio(stable: Histogram, canary: Histogram, quantile: float, alpha: float) -> Bounds:
    """The quantile of the canary's latency over that of stable's; the bins of the two may differ.

    A quantile lies in a bin if too few requests end before the bin and enough by its end, and both are counts
    to which `sequential` applies: Howard and Ramdas, "Sequential estimation of quantiles with applications to
    A/B testing and best-arm identification" (2022), section 3. Within its bin a quantile may be anywhere. A
    pair of bins is possible while what speaks against both, multiplied, stays below 1 / alpha."""
    stable_starts, stable_ends, stable_counts = _bins(stable)
    canary_starts, canary_ends, canary_counts = _bins(canary)
    stable_not_low, stable_not_high = _against(stable_counts, quantile)
    canary_not_low, canary_not_high = _against(canary_counts, quantile)
    needed = -np.log(alpha)
    slower = canary_not_low[:, None] + stable_not_high < needed
    faster = canary_not_high[:, None] + stable_not_low < needed
    with np.errstate(divide="ignore", invalid="ignore"):
        least = np.where(slower, canary_starts[:, None] / stable_ends, np.inf).min()
        most = np.where(faster, canary_ends[:, None] / stable_starts, 0.0).max()
    return Bounds(float(least), float(most))


def quantile_bin(histogram: Histogram, quantile: float) -> tuple[float, float]:
    """The bin in which the quantile of what was counted lies, from and to in ms."""
    starts, ends, counts = _bins(histogram)
    at = int(np.argmax(counts >= quantile * counts[-1]))
    return float(starts[at]), float(ends[at])


def _bins(histogram: Histogram):
    """Starts, ends and how many were counted by each end."""
    ends, counts = np.array(histogram, float).T
    return np.concatenate(([0.0], ends[:-1])), ends, counts


def _against(counts: np.ndarray, quantile: float):
    """What speaks against the quantile being as low as each bin, and as high."""
    beyond = counts[-1] - counts
    before = np.concatenate((counts[-1:], beyond[:-1]))
    rest = 1 - quantile
    return (
        evidence(beyond, counts[-1], np.minimum(beyond / counts[-1], rest), RARE),
        evidence(before, counts[-1], np.maximum(before / counts[-1], rest), RARE),
    )
