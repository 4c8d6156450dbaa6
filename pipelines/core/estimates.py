"""What a metric says: a value with its interval, a loss with its error, or why it can say nothing.

`Metric` is the base of every metric the gate can judge by. A paired loss is what the gate decides on: the two
models answer the same rows, so what is common to both drops out.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import inf
from statistics import NormalDist

import numpy as np

from pipelines.core.evaluate import Kind
from pipelines.core.unfit import not_finite


@dataclass(frozen=True)
class Estimate:
    """A metric with its two-sided confidence interval, in the metric's own unit."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Loss:
    """How much worse the candidate is than the reference on the same rows, and the standard error of that.

    `drop` is in the metric's own unit and positive when the candidate is worse, whatever the orientation of
    the metric. Bounds and p-values are one-sided and normal.
    """

    drop: float
    error: float

    def bound(self, confidence: float) -> float:
        """The true drop is at most this, at that one-sided confidence (strictly between 0 and 1)."""
        return self.drop + NormalDist().inv_cdf(confidence) * self.error

    def floor(self, confidence: float) -> float:
        """The true drop is at least this, at that one-sided confidence (strictly between 0 and 1)."""
        return self.drop - NormalDist().inv_cdf(confidence) * self.error

    def p_value(self, margin: float) -> float:
        """Of the hypothesis that the true drop is at most `margin`: small where the candidate is worse."""
        if self.error == 0:
            return float(self.drop <= margin)
        return NormalDist().cdf((margin - self.drop) / self.error)


class Metric(ABC):
    """A figure of merit of predictions, (n,) or (n, k), against labels, (n,) or (n, d).

    Ask for the `refusal` first: the other methods expect labels and predictions that are not refused.
    """

    name: str
    higher_is_better: bool = True
    kind: Kind = "probability"

    def refusal(self, labels: np.ndarray, predictions: np.ndarray) -> str | None:
        """Why the metric can't be computed, in plain words with numbers; None when it can."""
        if len(labels) != len(predictions):
            return f"there are {len(labels):,} labels for {len(predictions):,} predictions"
        if len(labels) < 2:
            return f"{len(labels)} rows are too few to judge"
        return (
            not_finite("labels", labels)
            or not_finite("predictions", predictions)
            or self._objection(labels, predictions)
        )

    @abstractmethod
    def value(self, labels: np.ndarray, predictions: np.ndarray) -> float: ...

    @abstractmethod
    def estimate(self, labels: np.ndarray, predictions: np.ndarray, confidence: float = 0.95) -> Estimate:
        """The metric with its two-sided interval."""

    @abstractmethod
    def loss(self, labels: np.ndarray, reference: np.ndarray, candidate: np.ndarray) -> Loss:
        """The paired loss of the candidate's predictions against the reference's."""

    @abstractmethod
    def _objection(self, labels: np.ndarray, predictions: np.ndarray) -> str | None:
        """What this metric in particular can't work with; the counts agree and the numbers are finite."""

    def _drop(self, reference, candidate):
        return reference - candidate if self.higher_is_better else candidate - reference


class RowMean(Metric):
    """The mean of a score of each row, with normal intervals; the loss is that of the paired differences."""

    lowest, highest = -inf, inf

    @abstractmethod
    def scores(self, labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """One number a row, (n,)."""

    def value(self, labels, predictions) -> float:
        return float(self.scores(labels, predictions).mean())

    def estimate(self, labels, predictions, confidence=0.95) -> Estimate:
        scores = self.scores(labels, predictions)
        error = float(scores.std(ddof=1) / np.sqrt(len(scores)))
        return normal_interval(float(scores.mean()), error, confidence, self.lowest, self.highest)

    def loss(self, labels, reference, candidate) -> Loss:
        drops = self._drop(self.scores(labels, reference), self.scores(labels, candidate))
        return Loss(float(drops.mean()), mean_error(drops))


def mean_error(differences: np.ndarray) -> float:
    """The standard error of the mean of paired differences, (n,) with n > 1, with one pair added.

    The added pair is as far apart as the farthest that was seen, half in each direction. That is what Agresti
    and Min (Statistics in Medicine 24, 2005) add to matched proportions, and mends the same fault: where few
    rows carry the difference, the plain error is too small and worse models slip through.
    """
    centred, farthest = differences - differences.mean(), np.abs(differences).max()
    return float(np.sqrt((centred @ centred + farthest**2) / (len(centred) * (len(centred) - 1))))


def normal_interval(value: float, error: float, confidence: float, low: float, high: float) -> Estimate:
    """A normal interval, kept within the values [low, high] that the metric can take."""
    reach = NormalDist().inv_cdf(0.5 + confidence / 2) * error
    return Estimate(value, max(low, value - reach), min(high, value + reach))


def wilson(hits: np.ndarray | int, rows: np.ndarray | int, quantile: float):
    """Wilson's (1927) score interval of a proportion: (low, high); `quantile` is of the normal, e.g. 1.96."""
    share, room = hits / rows, quantile**2 / rows
    centre, reach = share + room / 2, quantile * np.sqrt(share * (1 - share) / rows + room / (4 * rows))
    return (centre - reach) / (1 + room), (centre + reach) / (1 + room)
