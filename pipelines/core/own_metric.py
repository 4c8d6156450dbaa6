"""A metric of the user's own: any function of labels and predictions, with errors from a bootstrap.

The resamples are drawn once for both models (B. Efron and R. Tibshirani, An Introduction to the Bootstrap,
1993, chapter 6), so its losses are paired as those of the other metrics are.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from math import inf
from typing import get_args

import numpy as np

from pipelines.core.errors import SettingsInvalid
from pipelines.core.estimates import Estimate, Loss, Metric, normal_interval
from pipelines.core.evaluate import Kind

RESAMPLES = 200
MIN_VALID = 0.9
"""Where the function fails on more resamples than this leaves, its error is unknown, and so infinite."""

FAILURES = (ArithmeticError, LookupError, TypeError, ValueError)


class OwnMetric(Metric):
    """`package.module:function`, which takes labels and predictions and returns a number; higher is better.

    The function says by an attribute `kind` what its predictions are: probability, value (without it) or
    embedding. Raises SettingsInvalid where it can't be imported or isn't a function.
    """

    def __init__(self, path: str) -> None:
        self.name = path
        self._function = _imported(path)
        self.kind = getattr(self._function, "kind", "value")
        if self.kind not in get_args(Kind):
            raise SettingsInvalid(
                f"The kind of {path}", self.kind, f"it is one of {', '.join(get_args(Kind))}"
            )

    def value(self, labels, predictions) -> float:
        return float(self._function(labels, predictions))

    def estimate(self, labels, predictions, confidence=0.95) -> Estimate:
        values = np.array(
            [self._attempt(labels[rows], predictions[rows]) for rows in _resamples(len(labels))]
        )
        return normal_interval(self.value(labels, predictions), _spread(values), confidence, -inf, inf)

    def loss(self, labels, reference, candidate) -> Loss:
        drops = np.array(
            [
                self._attempt(labels[rows], reference[rows]) - self._attempt(labels[rows], candidate[rows])
                for rows in _resamples(len(labels))
            ]
        )
        return Loss(self.value(labels, reference) - self.value(labels, candidate), _spread(drops))

    def _attempt(self, labels, predictions) -> float:
        try:
            return self.value(labels, predictions)
        except FAILURES:
            return float("nan")

    def _objection(self, labels, predictions) -> str | None:
        try:
            value = self.value(labels, predictions)
        except FAILURES as error:
            return f"{self.name} raised {type(error).__name__}: {error}"
        return None if np.isfinite(value) else f"{self.name} returned {value}"


def _resamples(rows: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    return (rng.integers(0, rows, rows) for _ in range(RESAMPLES))


def _spread(values: np.ndarray) -> float:
    valid = values[np.isfinite(values)]
    return float(valid.std(ddof=1)) if len(valid) >= MIN_VALID * len(values) else inf


def _imported(path: str) -> Callable:
    module, _, name = path.partition(":")
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError, SyntaxError) as error:
        mend = f"it can't be imported ({error}); install its package or correct the name"
        raise SettingsInvalid("metric", path, mend) from error
    if not callable(function):
        raise SettingsInvalid(
            "metric", path, "it is not a function; name one that takes labels and predictions"
        )
    return function
