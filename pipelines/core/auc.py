"""The area under the ROC curve, its interval, and the paired loss of one scorer against another.

AUC and its variances are DeLong's (E. R. DeLong et al., Biometrics 44, 1988), computed from midranks
in O(n log n) (X. Sun and W. Xu, IEEE Signal Processing Letters 21, 2014).
"""

from math import exp, log
from statistics import NormalDist

import numpy as np

from pipelines.core.estimates import mean_error


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """The share of pairs of a 1 and a 0 that the scores put in order; ties count half."""
    return float(_placements(labels, scores)[0].mean())


def auc_interval(
    labels: np.ndarray, scores: np.ndarray, confidence: float = 0.95
) -> tuple[float, float, float]:
    """AUC with its two-sided confidence interval: (value, low, high).

    `labels`, (n,), are 0 or 1 and hold at least two of each; `scores`, (n,), are finite, higher for 1. The
    interval is DeLong's on the logit scale (M. S. Pepe, The Statistical Evaluation of Medical Tests, 2003),
    which covers where the plain one is far too short: near 1, and with few rows of one kind.
    """
    positives, negatives = _placements(labels, scores)
    value, tail = float(positives.mean()), (1 - confidence) / 2
    if value in (0.0, 1.0):  # no pair is out of order: the exact bound of that many disjoint pairs
        reach = 1 - tail ** (1 / min(len(positives), len(negatives)))
        return value, max(0.0, value - reach), min(1.0, value + reach)
    error = float(np.hypot(_error(positives), _error(negatives))) / (value * (1 - value))
    centre, reach = log(value / (1 - value)), NormalDist().inv_cdf(1 - tail) * error
    return value, 1 / (1 + exp(reach - centre)), 1 / (1 + exp(-reach - centre))


def auc_loss(labels: np.ndarray, reference: np.ndarray, candidate: np.ndarray) -> tuple[float, float]:
    """How much AUC `candidate` loses against `reference` on the same rows: (drop, its standard error).

    That the scores are paired makes the error far smaller than two intervals would suggest. It is a little
    small still where AUC is above .95 and fewer than about 100 rows are of one kind.
    """
    theirs, ours = _placements(labels, reference), _placements(labels, candidate)
    positives, negatives = theirs[0] - ours[0], theirs[1] - ours[1]
    return float(positives.mean()), float(np.hypot(mean_error(positives), mean_error(negatives)))


def _placements(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each positive, the share of negatives below it; of each negative, the share of positives above."""
    from scipy.stats import rankdata

    positive, negative = scores[labels == 1], scores[labels == 0]
    ranks = rankdata(np.concatenate([positive, negative]))
    above = (ranks[: len(positive)] - rankdata(positive)) / len(negative)
    below = 1 - (ranks[len(positive) :] - rankdata(negative)) / len(positive)
    return above, below


def _error(placements: np.ndarray) -> float:
    return float(placements.std(ddof=1) / np.sqrt(len(placements)))
