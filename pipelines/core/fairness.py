"""How far groups of people are treated apart, with intervals that account for picking the widest gap.

Two gaps are measured: in the share of positive decisions (demographic parity) and, among those who are truly
positive, in the share that is found (equal opportunity: M. Hardt et al., NeurIPS 2016).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipelines.core.estimates import wilson
from pipelines.core.evaluate import as_columns, decisions
from pipelines.core.slices import slice_masks
from pipelines.core.spec import FairnessSpec
from pipelines.core.verdict import Outcome

if TYPE_CHECKING:
    from pandas import DataFrame

DECISIONS = "positive decisions"
FOUND = "true positives found"


@dataclass(frozen=True)
class Gap:
    """The largest gap between two groups of a column in a rate, as a share.

    groups      the one with the higher rate, and the one with the lower
    low, high   the two-sided interval of the gap
    left_out    groups with too few rows to be compared
    """

    column: str
    rate: str
    outcome: Outcome
    why: str
    gap: float | None = None
    low: float | None = None
    high: float | None = None
    groups: tuple[str, str] | None = None
    left_out: tuple[str, ...] = ()


def judge_fairness(
    frame: "DataFrame",
    labels: np.ndarray,
    predictions: np.ndarray,
    spec: FairnessSpec,
    threshold: float,
    confidence: float,
    min_rows: int,
) -> tuple[Gap, ...]:
    """Judge both gaps on each column of `spec`: fail where the whole interval is above max_gap, pass where
    none of it is, else inconclusive. `labels`, (n,), are 0 or 1.

    Groups are the slices of a column. One with fewer than `min_rows` rows, or without a truly positive one
    where those are counted, is left out and named. Raises ContractBroken for a column that is not there.
    """
    if reason := _refusal(labels, predictions):
        return tuple(
            Gap(column, rate, "inconclusive", reason)
            for column in spec.columns
            for rate in (DECISIONS, FOUND)
        )
    chosen = decisions(predictions, threshold) == 1
    counted = {DECISIONS: np.ones(len(labels), bool), FOUND: labels == 1}
    return tuple(
        _judge(column, rate, slice_masks(frame, [column]), chosen, rows, spec, confidence, min_rows)
        for column in spec.columns
        for rate, rows in counted.items()
    )


def _refusal(labels: np.ndarray, predictions: np.ndarray) -> str | None:
    if as_columns(predictions).shape[1] > 2:
        return f"predictions of shape {predictions.shape} are no yes-or-no decisions"
    if not np.isfinite(as_columns(predictions)).all():
        return "some predictions are NaN or infinite"
    if not np.isin(labels, (0, 1)).all():
        return "labels other than 0 and 1 don't tell who is truly positive"
    return None


def _judge(
    column: str,
    rate: str,
    masks: Mapping[str, np.ndarray],
    chosen: np.ndarray,
    rows: np.ndarray,
    spec: FairnessSpec,
    confidence: float,
    min_rows: int,
) -> Gap:
    counts = {
        name: (int((mask & rows & chosen).sum()), int((mask & rows).sum()))
        for name, mask in masks.items()
        if mask.sum() >= min_rows and (mask & rows).any()
    }
    left_out = tuple(name for name in masks if name not in counts)
    if len(counts) < 2:
        why = f"{column} has {len(counts)} groups of at least {min_rows:,} rows, two are needed"
        return Gap(column, rate, "inconclusive", why, left_out=left_out)
    hits, sizes = np.array(list(counts.values())).T
    gap, low, high = widest_gap(hits, sizes, confidence)
    shares, names = hits / sizes, list(counts)
    groups = names[int(shares.argmax())], names[int(shares.argmin())]
    outcome: Outcome = "fail" if low > spec.max_gap else "pass" if high <= spec.max_gap else "inconclusive"
    why = (
        f"{rate}: {shares.max():.1%} of {groups[0]}, {shares.min():.1%} of {groups[1]}, "
        f"a gap of {gap:.3f} [{low:.3f}, {high:.3f}] where {spec.max_gap:g} is allowed{_apart(left_out)}"
    )
    return Gap(column, rate, outcome, why, gap, low, high, groups, left_out)


def _apart(left_out: Sequence[str]) -> str:
    return f"; too few rows to compare: {', '.join(left_out)}" if left_out else ""


def widest_gap(hits: np.ndarray, rows: np.ndarray, confidence: float) -> tuple[float, float, float]:
    """The largest difference of two of k > 1 proportions with its two-sided interval: (gap, low, high).

    Every pair gets R. G. Newcombe's hybrid score interval (Statistics in Medicine 17, 1998, method 10) at the
    critical value of the studentized range of k groups (A. Agresti et al., Biometrics 64, 2008), so that all
    hold at once, and with them the bounds of the widest.
    """
    from scipy.stats import studentized_range

    quantile = studentized_range.ppf(confidence, len(hits), np.inf) / np.sqrt(2)
    share, (low, high) = hits / rows, wilson(hits, rows, quantile)
    apart = share[:, None] - share[None, :]
    up, down = (high - share)[:, None] ** 2, (share - low)[None, :] ** 2
    highest = (apart + np.sqrt(up + down)).max()
    lowest = (apart - np.sqrt(down.T + up.T)).max()
    return float(apart.max()), float(max(0.0, lowest)), float(min(1.0, highest))
