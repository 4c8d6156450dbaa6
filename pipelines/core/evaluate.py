"""What a rung does to answers: predictions on held-out rows, their AUC, and paired differences of AUC.

AUC and its standard errors are DeLong's (E. R. DeLong et al., Biometrics 44, 1988), computed from midranks
in O(n log n) (X. Sun and W. Xu, IEEE Signal Processing Letters 21, 2014).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

import numpy as np

Tensors = Mapping[str, np.ndarray]


class Runs(Protocol):
    """Anything that answers like an ONNX session: one array an output."""

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class Shift:
    """How far predictions moved from a reference: mean and max |Δp|, and decisions at 0.5 that flipped."""

    mean: float
    max: float
    flips: int


def take(feeds: Tensors, rows: slice | np.ndarray) -> dict[str, np.ndarray]:
    """The same tensors, restricted to some rows."""
    return {name: tensor[rows] for name, tensor in feeds.items()}


def row_count(feeds: Tensors) -> int:
    return len(next(iter(feeds.values())))


def predict(engine: Runs, feeds: Tensors, batch_rows: int) -> dict[str, np.ndarray]:
    """Score all rows in batches of `batch_rows`; one array of `row_count(feeds)` rows an output."""
    batches = [
        engine.run(take(feeds, slice(start, start + batch_rows)))
        for start in range(0, row_count(feeds), batch_rows)
    ]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def shift(reference: np.ndarray, candidate: np.ndarray) -> Shift:
    """Compare two sets of predictions of the same rows."""
    moved = np.abs(candidate.astype(np.float64) - reference)
    flips = int(((candidate >= 0.5) != (reference >= 0.5)).sum())
    return Shift(float(moved.mean()), float(moved.max()), flips)


def batch_shift(engine: Runs, feeds: Tensors, output: str, alone: int = 256, among: int = 64) -> float:
    """The largest change of a row's answer between being scored alone and among `among` rows.

    The first `alone` rows are tried. Dynamic INT8 takes its activation scale from the whole batch, so its
    answers depend on strangers.
    """
    some = take(feeds, slice(0, alone))
    single, batched = predict(engine, some, 1)[output], predict(engine, some, among)[output]
    return float(np.abs(single.astype(np.float64) - batched).max())


def auc_interval(
    labels: np.ndarray, scores: np.ndarray, confidence: float = 0.95
) -> tuple[float, float, float]:
    """AUC with its two-sided confidence interval: (value, low, high).

    `labels` are 0 or 1 and must hold both; `scores` are any finite numbers, higher for 1.
    """
    positives, negatives = _placements(labels, scores)
    value = float(positives.mean())
    reach = _quantile(0.5 + confidence / 2) * _standard_error(positives, negatives)
    return value, float(max(0.0, value - reach)), float(min(1.0, value + reach))


def auc_drop(
    labels: np.ndarray, reference: np.ndarray, candidate: np.ndarray, confidence: float
) -> tuple[float, float]:
    """How much AUC `candidate` loses against `reference` on the same rows: (drop, upper bound of the drop).

    The bound is one-sided at `confidence` and uses that the scores are paired, which makes it far tighter
    than comparing two intervals.
    """
    ours, theirs = _placements(labels, candidate), _placements(labels, reference)
    drop = float(theirs[0].mean() - ours[0].mean())
    error = _standard_error(theirs[0] - ours[0], theirs[1] - ours[1])
    return drop, drop + _quantile(confidence) * error


def _quantile(probability: float) -> float:
    return NormalDist().inv_cdf(probability)


def _placements(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each positive, the share of negatives below it; of each negative, the share of positives above."""
    from scipy.stats import rankdata

    positive, negative = scores[labels == 1], scores[labels == 0]
    ranks = rankdata(np.concatenate([positive, negative]))
    above = (ranks[: len(positive)] - rankdata(positive)) / len(negative)
    below = 1 - (ranks[len(positive) :] - rankdata(negative)) / len(positive)
    return above, below


def _standard_error(positives: np.ndarray, negatives: np.ndarray) -> float:
    variance = positives.var(ddof=1) / len(positives) + negatives.var(ddof=1) / len(negatives)
    return float(np.sqrt(variance))
