"""How far the canary's answers are spread differently from stable's."""

import numpy as np

from pipelines.core.rollout.sequential import Bounds, difference


def distance(stable: np.ndarray, canary: np.ndarray, alpha: float) -> Bounds:
    """The largest difference between the shares of answers up to the end of any bin, in 0 to 1 (Kolmogorov's
    distance), from counts by bin, (bins,) each and more than one.

    Each end of a bin makes the answers a count to which `sequential` applies. For the lower bound alpha is
    shared among the ends and both signs; the upper one has to hold where the difference is largest only. This
    finds more than the time-uniform inequality of Dvoretzky, Kiefer and Wolfowitz (Howard and Ramdas, 2022):
    that one reckons with a share of one half everywhere, and its constants are those of infinitely many ends.
    It also finds more than the average over all multinomials (Lindon and Malek, 2022), which pays for each
    bin with half a logarithm of the number of requests, not with the logarithm of the number of bins."""
    upto, canary_upto = np.cumsum(stable)[:-1], np.cumsum(canary)[:-1]
    alphas = np.array([[alpha / (2 * len(upto))], [alpha]])
    found = difference(upto, np.sum(stable), canary_upto, np.sum(canary), alphas)
    apart = np.maximum(found.low, -found.high)[0].max()
    together = np.maximum(found.high, -found.low)[1].max()
    return Bounds(float(apart), float(together))
