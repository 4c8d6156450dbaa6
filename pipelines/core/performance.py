"""How good the predictions of a month were, once its labels have arrived, held against the holdout."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.core.charts import metric_name
from pipelines.core.errors import ContractBroken
from pipelines.core.metrics import Metric
from pipelines.core.rows import to_array
from pipelines.core.spec import MonitoringSpec
from pipelines.core.verdict import Verdict, judge

if TYPE_CHECKING:
    import pandas as pd

GATE = "performance_holds"
FIGURES = ("value", "low", "high", "log_loss", "brier", "predicted", "observed")


@dataclass(frozen=True)
class PerformanceReport:
    """One month's performance; figures are None where rows or labels were too few to measure.

    matched_rows, labelled_share   scores that have a label by now, and their share of all scores
    value, low, high               the metric with its confidence interval
    predicted, observed            the mean prediction and the share of positive labels
    """

    month: str
    metric: str
    holdout_value: float
    rows: int
    matched_rows: int
    labelled_share: float
    value: float | None
    low: float | None
    high: float | None
    log_loss: float | None
    brier: float | None
    predicted: float | None
    observed: float | None
    verdict: Verdict

    def to_dict(self) -> dict:
        return asdict(self)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> "PerformanceReport":
        fields = json.loads(path.read_text())
        return cls(**{**fields, "verdict": Verdict.from_dict(fields["verdict"])})


def measure_performance(
    scores: "pd.DataFrame",
    labels: "pd.DataFrame",
    *,
    key: str,
    label: str,
    output: str,
    metric: Metric,
    holdout_value: float,
    spec: MonitoringSpec,
    subject: str,
    month: str,
) -> PerformanceReport:
    """Join scores (`key`, `output`) with labels (`key`, `label`) and compare the metric with the holdout's.

    A score without a label, or with an empty one, is not counted. Fewer than `spec.min_rows` labelled rows,
    or what the metric refuses, are inconclusive. Raises ContractBroken for missing columns, keys that are not
    unique, and where AUC is wanted for labels other than 0 and 1.
    """
    predictions, truth = _matched(scores, labels, key, label, output, metric)
    few = _too_few(truth, predictions, metric, spec.min_rows)
    figures = dict.fromkeys(FIGURES) if few else _figures(truth, predictions, metric)
    if not isfinite(figures["low"] or 0):
        few = f"the error of {metric.name} is not known: it fails on resampled rows"
        figures = dict.fromkeys(FIGURES)
    share = len(truth) / max(len(scores), 1)
    return PerformanceReport(
        month=month,
        metric=metric.name,
        holdout_value=holdout_value,
        rows=len(scores),
        matched_rows=len(truth),
        labelled_share=share,
        verdict=_judge(few, figures, metric, holdout_value, spec, subject, len(truth)),
        **figures,
    )


def _matched(
    scores: "pd.DataFrame", labels: "pd.DataFrame", key: str, label: str, output: str, metric: Metric
) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels of the rows that have both; their columns may be of one name."""
    for frame, what, column in ((scores, "scores", output), (labels, "labels", label)):
        missing = [name for name in (key, column) if name not in frame]
        if missing:
            raise ContractBroken(f"The {what} file", f"{missing[0]} is missing", "write it with that column")
        if frame[key].duplicated().any():
            raise ContractBroken(f"The {what} file", f"{key} is not unique", "drop the duplicates")
    known = labels.loc[labels[label].notna(), [key, label]]
    if metric.name == "auc" and not known[label].isin([0, 1]).all():
        raise ContractBroken("The labels file", f"{label} holds values other than 0 and 1", "correct them")
    try:
        matched = scores[[key, output]].merge(known, on=key)
    except ValueError as error:
        raise ContractBroken(
            "The labels file", f"{key} is of another type than in the scores", "convert it"
        ) from error
    return to_array(matched.iloc[:, 1], "scores"), to_array(matched.iloc[:, 2], "labels")


def _too_few(truth: np.ndarray, predictions: np.ndarray, metric: Metric, min_rows: int) -> str:
    if len(truth) < min_rows:
        return f"{len(truth):,} scores have a label, of at least {min_rows:,}: too few to tell"
    return metric.refusal(truth, predictions) or ""


def _figures(truth: np.ndarray, predictions: np.ndarray, metric: Metric) -> dict[str, float | None]:
    estimate = metric.estimate(truth, predictions)
    figures: dict[str, float | None] = dict.fromkeys(FIGURES)
    figures |= {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return figures | (_of_two_classes(truth, predictions) if _are_chances(truth, predictions) else {})


def _are_chances(truth: np.ndarray, predictions: np.ndarray) -> bool:
    """Whether these are probabilities of the one of two classes."""
    within = predictions.ndim == 1 and ((predictions >= 0) & (predictions <= 1)).all()
    return bool(within and np.isin(truth, (0, 1)).all())


def _of_two_classes(truth: np.ndarray, predictions: np.ndarray) -> dict[str, float | None]:
    tiny = np.finfo(np.float64).eps
    sure = np.clip(predictions, tiny, 1 - tiny)
    losses = -np.log(np.where(truth == 1, sure, 1 - sure))
    return {
        "log_loss": float(losses.mean()),
        "brier": float(((predictions - truth) ** 2).mean()),
        "predicted": float(predictions.mean()),
        "observed": float(truth.mean()),
    }


def _judge(
    few: str,
    figures: Mapping,
    metric: Metric,
    holdout_value: float,
    spec: MonitoringSpec,
    subject: str,
    matched_rows: int,
) -> Verdict:
    numbers = {"matched_rows": matched_rows, "holdout_value": holdout_value, "value": figures["value"]}
    if few:
        return Verdict(GATE, "inconclusive", subject, (few,), numbers)
    value = figures["value"]
    drop = (holdout_value - value) * (1 if metric.higher_is_better else -1)
    interval = f"[{figures['low']:.3f}, {figures['high']:.3f}]"
    sentence = (
        f"{metric_name(metric.name)} {value:.3f} {interval} on {matched_rows:,} rows "
        f"is {abs(drop):.3f} {'worse' if drop > 0 else 'better'} than the holdout's {holdout_value:.3f}; "
        f"it may be {spec.max_drop:g} worse"
    )
    failures = [sentence] if drop > spec.max_drop else []
    return judge(GATE, subject, failures, sentence, **numbers, drop=drop)
