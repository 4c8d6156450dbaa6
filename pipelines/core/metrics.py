"""The metrics that the gate can judge by: each with its interval, its paired loss and its refusals."""

from collections.abc import Callable
from math import inf
from statistics import NormalDist

import numpy as np

from pipelines.core.auc import auc, auc_interval, auc_loss
from pipelines.core.errors import SettingsInvalid
from pipelines.core.estimates import Estimate, Loss, Metric, RowMean, mean_error, normal_interval, wilson
from pipelines.core.evaluate import Kind, as_columns, cosines, decisions
from pipelines.core.own_metric import OwnMetric
from pipelines.core.unfit import not_alike, not_classes, not_probabilities

__all__ = ["Estimate", "Kind", "Loss", "Metric", "metric_of"]

MIN_OF_A_KIND = 30
"""With fewer rows of one label, DeLong's paired bound is too low and worse models slip through."""

FLOAT32_EPS = float(np.finfo(np.float32).eps)


def metric_of(name: str, threshold: float) -> Metric:
    """The metric of that name; `threshold` decides for the accuracy of two classes.

    Raises SettingsInvalid for a name that is neither known nor an importable package.module:function.
    """
    known: dict[str, Callable[[], Metric]] = {
        "auc": Auc,
        "accuracy": lambda: Accuracy(threshold),
        "log_loss": LogLoss,
        "rmse": Rmse,
        "cosine": Cosine,
    }
    if name in known:
        return known[name]()
    if ":" not in name:
        raise SettingsInvalid("metric", name, f"it is one of {', '.join(known)} or package.module:function")
    return OwnMetric(name)


class Auc(Metric):
    """Area under the ROC curve of one score a row; of two columns, the second."""

    name = "auc"

    def value(self, labels, predictions) -> float:
        return auc(labels, as_columns(predictions)[:, -1])

    def estimate(self, labels, predictions, confidence=0.95) -> Estimate:
        return Estimate(*auc_interval(labels, as_columns(predictions)[:, -1], confidence))

    def loss(self, labels, reference, candidate) -> Loss:
        return Loss(*auc_loss(labels, as_columns(reference)[:, -1], as_columns(candidate)[:, -1]))

    def _objection(self, labels, predictions) -> str | None:
        if (columns := as_columns(predictions).shape[1]) > 2:
            return f"auc judges two classes, the predictions have {columns} columns"
        if reason := not_classes(labels, 2):
            return reason
        positives, rows = int((labels == 1).sum()), len(labels)
        if positives in (0, rows):
            return f"all {rows:,} labels are {float(labels[0]):g}"
        if min(positives, rows - positives) < MIN_OF_A_KIND:
            return f"{positives:,} of {rows:,} labels are 1: at least {MIN_OF_A_KIND} of each kind are needed"
        return None


class Accuracy(RowMean):
    """The share of right decisions, with Wilson's interval.

    The error of the loss is Agresti and Min's (Statistics in Medicine 24, 2005): half a pair is added to
    each cell of right and wrong, so that few pairs, or none, that differ don't look like certainty.
    """

    name = "accuracy"

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def scores(self, labels, predictions) -> np.ndarray:
        return (decisions(predictions, self._threshold) == labels).astype(np.float64)

    def estimate(self, labels, predictions, confidence=0.95) -> Estimate:
        hits = int(self.scores(labels, predictions).sum())
        low, high = wilson(hits, len(labels), NormalDist().inv_cdf(0.5 + confidence / 2))
        return Estimate(hits / len(labels), float(low), float(high))

    def loss(self, labels, reference, candidate) -> Loss:
        drops = self.scores(labels, reference) - self.scores(labels, candidate)
        rows = len(drops) + 2
        variance = (np.abs(drops).sum() + 1 - drops.sum() ** 2 / rows) / rows**2
        return Loss(float(drops.mean()), float(np.sqrt(variance)))

    def _objection(self, labels, predictions) -> str | None:
        return not_classes(labels, max(2, as_columns(predictions).shape[1]))


class LogLoss(RowMean):
    """The mean of -log p of the true class; p is kept off 0 and 1 by what float32 can tell from them."""

    name, higher_is_better, lowest = "log_loss", False, 0.0

    def scores(self, labels, predictions) -> np.ndarray:
        columns = as_columns(predictions)
        if columns.shape[1] == 1:
            columns = np.hstack([1 - columns, columns])
        right = columns[np.arange(len(labels)), labels.astype(np.int64)]
        return -np.log(np.clip(right, FLOAT32_EPS, 1 - FLOAT32_EPS))

    def _objection(self, labels, predictions) -> str | None:
        columns = as_columns(predictions)
        return not_classes(labels, max(2, columns.shape[1])) or not_probabilities(columns)


class Cosine(RowMean):
    """The mean cosine of each predicted vector, (n, d), with its target, (n, d)."""

    name, kind, lowest, highest = "cosine", "embedding", -1.0, 1.0

    def scores(self, labels, predictions) -> np.ndarray:
        return cosines(labels, predictions)

    def _objection(self, labels, predictions) -> str | None:
        zeros = int((~as_columns(labels).any(axis=1)).sum())
        return not_alike(labels, predictions) or (
            f"{zeros:,} of {len(labels):,} target vectors are zero" if zeros else None
        )


class Rmse(Metric):
    """The root of the mean squared error, in the unit of the labels; errors by the delta method."""

    name, higher_is_better, kind = "rmse", False, "value"

    def value(self, labels, predictions) -> float:
        return float(np.sqrt(self._squares(labels, predictions).mean()))

    def estimate(self, labels, predictions, confidence=0.95) -> Estimate:
        influence = self._influence(labels, predictions)
        error = float(influence.std(ddof=1) / np.sqrt(len(influence)))
        return normal_interval(self.value(labels, predictions), error, confidence, 0, inf)

    def loss(self, labels, reference, candidate) -> Loss:
        drop = self._drop(self.value(labels, reference), self.value(labels, candidate))
        drops = self._drop(self._influence(labels, reference), self._influence(labels, candidate))
        return Loss(drop, mean_error(drops))

    def _squares(self, labels, predictions) -> np.ndarray:
        return ((as_columns(predictions) - as_columns(labels)) ** 2).mean(axis=1)

    def _influence(self, labels, predictions) -> np.ndarray:
        """What each row adds to the root: its square over twice the root, so that the variances agree."""
        return self._squares(labels, predictions) / (2 * (self.value(labels, predictions) or 1))

    def _objection(self, labels, predictions) -> str | None:
        return not_alike(labels, predictions)
