"""Whether probabilities mean what they say: the expected calibration error, and how much of it is new.

A rung can keep the order of rows, and so AUC, and still ruin every probability; this sees it.
"""

import numpy as np

from pipelines.core.estimates import Loss
from pipelines.core.evaluate import as_columns

RESAMPLES = 200


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> float:
    """The mean distance of confidence and truth over bins of equal mass (M. P. Naeini et al., AAAI 2015;
    equal mass: J. Nixon et al., CVPR Workshops 2019).

    `labels`, (n,), are classes from 0; `probabilities` are (n,), (n, 1) or (n, 2) of class 1, or (n, k) of
    k classes, of which the top one is judged. Equal probabilities share a bin, so the order of rows means
    nothing. What the log loss refuses has no calibration error either.
    """
    return _error(*_gaps(labels, probabilities, bins))


def calibration_rise(
    labels: np.ndarray, reference: np.ndarray, candidate: np.ndarray, bins: int = 15
) -> Loss:
    """How much higher the candidate's calibration error is, with the standard error of a paired bootstrap.

    Bins are set once, from all rows: resamples only weigh the rows anew. Seeded. Noise raises both errors,
    the smaller one more, so that with few rows the rise is understated: its `floor` accuses no more often
    than it says, while its `bound` promises nothing.
    """
    before, after = _gaps(labels, reference, bins), _gaps(labels, candidate, bins)
    rng, rows = np.random.default_rng(0), len(labels)
    rises = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        weights = np.bincount(rng.integers(0, rows, rows), minlength=rows)
        rises[i] = _error(after[0] * weights, after[1]) - _error(before[0] * weights, before[1])
    return Loss(_error(*after) - _error(*before), float(rises.std(ddof=1)))


def _gaps(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each row: truth minus confidence, and its bin."""
    columns = as_columns(probabilities)
    if columns.shape[1] > 2:
        confidence, truth = columns.max(axis=1), columns.argmax(axis=1) == labels
    else:
        confidence, truth = columns[:, -1], labels
    edges = np.unique(np.quantile(confidence, np.arange(1, bins) / bins))
    return truth - confidence, np.searchsorted(edges, confidence, side="right")


def _error(gaps: np.ndarray, places: np.ndarray) -> float:
    return float(np.abs(np.bincount(places, weights=gaps)).sum() / len(gaps))
