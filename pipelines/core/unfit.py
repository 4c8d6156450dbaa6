"""Why labels or predictions are unfit to be judged, in plain words with numbers; None where they are fit."""

import numpy as np

from pipelines.core.evaluate import as_columns

SUM_TOLERANCE = 0.01
"""How far the probabilities of a row may sum from 1: half precision and INT8 round."""


def not_finite(what: str, values: np.ndarray) -> str | None:
    if values.dtype.kind not in "biuf":
        return f"the {what} are {values.dtype} values, not numbers"
    bad = int((~np.isfinite(values)).reshape(len(values), -1).any(axis=1).sum())
    return f"{bad:,} of {len(values):,} {what} are NaN or infinite" if bad else None


def not_classes(labels: np.ndarray, classes: int) -> str | None:
    if labels.ndim > 1:
        return f"the labels have shape {labels.shape} where one class a row is expected"
    odd = labels[~np.isin(labels, np.arange(classes))]
    if len(odd) == 0:
        return None
    allowed = "0 or 1" if classes == 2 else f"a class from 0 to {classes - 1}"
    return f"{len(odd):,} of {len(labels):,} labels are not {allowed}, the first is {float(odd[0]):g}"


def not_probabilities(columns: np.ndarray) -> str | None:
    outside = int(((columns < 0) | (columns > 1)).any(axis=1).sum())
    if outside:
        return f"{outside:,} of {len(columns):,} predictions are outside [0, 1]: they are no probabilities"
    off = int((np.abs(columns.sum(axis=1) - 1) > SUM_TOLERANCE).sum())
    if columns.shape[1] > 1 and off:
        return f"{off:,} of {len(columns):,} predictions do not sum to 1: they are no probabilities"
    return None


def not_alike(labels: np.ndarray, predictions: np.ndarray) -> str | None:
    if as_columns(labels).shape != as_columns(predictions).shape:
        return f"the labels have shape {labels.shape}, the predictions {predictions.shape}"
    return None
