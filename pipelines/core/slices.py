"""Whether a model that is as good overall is worse for some: the metric on slices of the holdout.

Many slices are many chances of a false alarm, so the p-values are adjusted by Y. Benjamini and Y. Hochberg
(JRSS B 57, 1995), which holds for overlapping slices too (Y. Benjamini and D. Yekutieli, Annals of
Statistics 29, 2001: positive dependence).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.core.errors import ContractBroken
from pipelines.core.estimates import Loss, Metric
from pipelines.core.spec import GateSpec
from pipelines.core.verdict import Outcome

if TYPE_CHECKING:
    from pandas import DataFrame

FEW_VALUES = 10
"""Numbers with at most this many distinct values are sliced by value, others by quartiles."""

MAX_VALUES = 100
"""A column's rarer values than its 100 most frequent share one slice."""


@dataclass(frozen=True)
class SliceResult:
    """One slice: the metric of both models, how much worse the candidate is, and the adjusted p-value of the
    hypothesis that the true drop is within the limit. All None where nothing could be tested.
    """

    slice: str
    rows: int
    outcome: Outcome
    why: str
    reference: float | None = None
    candidate: float | None = None
    drop: float | None = None
    p_value: float | None = None


def slice_masks(frame: "DataFrame", columns: Sequence[str]) -> dict[str, np.ndarray]:
    """The rows of each slice as a mask, (n,), by name: "carrier=UA", "distance in [0, 502)", "x is empty".

    Each row is in exactly one slice of each column. Raises ContractBroken for a column that is not there.
    """
    masks = {}
    for name in columns:
        if name not in frame:
            raise ContractBroken(
                "The holdout data", f"it has no column {name} to slice by", "correct the name"
            )
        column: Any = frame[name]
        empty = column.isna()
        if empty.any():
            masks[f"{name} is empty"] = empty.to_numpy()
        masks |= _by_value(column) if _is_discrete(column) else _by_quartile(column)
    return masks


def _is_discrete(column: Any) -> bool:
    from pandas.api.types import is_bool_dtype, is_datetime64_any_dtype, is_numeric_dtype

    orderly = is_numeric_dtype(column) or is_datetime64_any_dtype(column)
    return not orderly or is_bool_dtype(column) or column.nunique() <= FEW_VALUES


def _by_value(column: Any) -> dict[str, np.ndarray]:
    texts = column.astype(object).map(_text).where(column.notna())
    values = texts.value_counts().index.tolist()
    masks = {f"{column.name}={text}": (texts == text).to_numpy() for text in values[:MAX_VALUES]}
    if rare := values[MAX_VALUES:]:
        masks[f"{column.name} in {len(rare)} rarer values"] = texts.isin(rare).to_numpy()
    return masks


def _by_quartile(column: Any) -> dict[str, np.ndarray]:
    edges = column.quantile([0, 0.25, 0.5, 0.75, 1], interpolation="lower").drop_duplicates().tolist()
    pairs = list(pairwise(edges))
    masks = {
        f"{column.name} in [{_text(low)}, {_text(high)})": _filled((column >= low) & (column < high))
        for low, high in pairs[:-1]
    }
    low, high = pairs[-1]
    masks[f"{column.name} in [{_text(low)}, {_text(high)}]"] = _filled(column >= low)
    return masks


def _filled(mask: Any) -> np.ndarray:
    return mask.fillna(False).to_numpy(bool)


def _text(value: object) -> str:
    return f"{value:.12g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def judge_slices(
    metric: Metric,
    labels: np.ndarray,
    reference: np.ndarray,
    candidate: np.ndarray,
    masks: Mapping[str, np.ndarray],
    spec: GateSpec,
) -> tuple[SliceResult, ...]:
    """Judge the candidate against the reference on each slice, in the order of `masks`.

    A slice fails where "the true drop is at most max_slice_drop" is rejected, one-sided, with the false
    discovery rate over all tested slices held at 1 - confidence. Too few rows, or a metric that refuses
    them, are inconclusive.
    """
    tested: dict[str, Loss] = {}
    found: dict[str, SliceResult] = {}
    for name, mask in masks.items():
        truth, before, after = labels[mask], reference[mask], candidate[mask]
        why, loss = _tested(metric, truth, before, after, spec.min_slice_rows)
        found[name] = SliceResult(name, len(truth), "inconclusive", why)
        if loss:
            values = metric.value(truth, before), metric.value(truth, after)
            found[name], tested[name] = SliceResult(name, len(truth), "pass", "", *values, loss.drop), loss
    for name, p_value in _adjusted(tested, spec.max_slice_drop).items():
        found[name] = _judged(found[name], tested[name], p_value, metric.name, spec)
    return tuple(found.values())


def _tested(metric: Metric, truth, before, after, min_rows: int) -> tuple[str, Loss | None]:
    """The loss on a slice, or why there is none."""
    if len(truth) < min_rows:
        return f"{len(truth):,} rows are fewer than {min_rows:,}", None
    if refusal := metric.refusal(truth, before) or metric.refusal(truth, after):
        return refusal, None
    loss = metric.loss(truth, before, after)
    return ("", loss) if isfinite(loss.error) else (f"the error of {metric.name} is not known here", None)


def _adjusted(tested: Mapping[str, Loss], margin: float) -> dict[str, float]:
    from scipy.stats import false_discovery_control

    if not tested:
        return {}
    p_values = [loss.p_value(margin) for loss in tested.values()]
    return dict(zip(tested, map(float, false_discovery_control(p_values)), strict=True))


def _judged(result: SliceResult, loss: Loss, p_value: float, metric: str, spec: GateSpec) -> SliceResult:
    failed = p_value <= 1 - spec.confidence
    change = f"{metric} is {abs(loss.drop):.4f} {'worse' if loss.drop > 0 else 'better'} on {result.slice}"
    surely = f"surely more than {spec.max_slice_drop:g}"
    why = (
        f"{change} ({result.rows:,} rows, adjusted p {p_value:.2g}), {surely}"
        if failed
        else f"{change} ({result.rows:,} rows), not {surely}"
    )
    return replace(result, outcome="fail" if failed else "pass", why=why, p_value=p_value)
