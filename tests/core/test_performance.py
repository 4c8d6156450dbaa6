"""Scores against the labels that arrived later."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.core.errors import ContractBroken
from pipelines.core.performance import PerformanceReport, measure_performance
from pipelines.core.spec import MonitoringSpec

SPEC = MonitoringSpec(min_rows=100, max_drop=0.05)


def month(rows: int = 2000, signal: float = 1.0) -> tuple[pd.DataFrame, pd.DataFrame]:
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, rows)
    logits = signal * (truth - 0.5) + random.normal(size=rows)
    scores = pd.DataFrame({"id": np.arange(rows), "probability": 1 / (1 + np.exp(-logits))})
    return scores, pd.DataFrame({"id": np.arange(rows), "late": truth}).sample(frac=1, random_state=1)


def measured(scores: pd.DataFrame, labels: pd.DataFrame, holdout_value: float = 0.76) -> PerformanceReport:
    return measure_performance(
        scores,
        labels,
        key="id",
        label="late",
        output="probability",
        holdout_value=holdout_value,
        spec=SPEC,
        subject="flight_delay:1",
        month="2013-04",
    )


def test_rows_are_joined_by_key_and_the_figures_are_right():
    scores = pd.DataFrame({"id": [1, 2, 3, 4], "probability": [0.1, 0.4, 0.35, 0.8]})
    labels = pd.DataFrame({"id": [4, 3, 2, 1], "late": [1, 1, 0, 0]})
    report = measure_performance(
        scores,
        labels,
        key="id",
        label="late",
        output="probability",
        holdout_value=0.75,
        spec=MonitoringSpec(min_rows=4),
        subject="s",
        month="2013-04",
    )
    assert report.value == pytest.approx(0.75)
    assert report.brier == pytest.approx(np.mean([0.01, 0.16, 0.65**2, 0.04]))
    assert report.log_loss == pytest.approx(-np.mean(np.log([0.9, 0.6, 0.35, 0.8])))
    assert (report.predicted, report.observed) == pytest.approx((0.4125, 0.5))


def test_a_metric_near_the_holdouts_passes():
    report = measured(*month())
    assert report.verdict.passed and report.verdict.gate == "performance_holds"
    assert report.low < report.value < report.high
    assert report.matched_rows == report.rows == 2000 and report.labelled_share == 1
    assert "on 2,000 rows is 0.0" in report.verdict.why


def test_a_metric_far_below_the_holdouts_fails_with_both_values():
    report = measured(*month(signal=0.2))
    assert report.verdict.outcome == "fail"
    assert f"AUC {report.value:.3f}" in report.verdict.why
    assert "below the holdout's 0.760; it may fall 0.05" in report.verdict.why


def test_labels_that_have_not_arrived_are_not_counted():
    scores, labels = month()
    labels = labels.head(600).astype({"late": "float64"})
    labels.iloc[:100, 1] = np.nan
    report = measured(scores, labels)
    assert report.matched_rows == 500 and report.labelled_share == 0.25 and report.value is not None


def test_too_few_labels_and_one_class_are_inconclusive_and_leave_no_figures():
    scores, labels = month()
    few, single = measured(scores, labels.head(50)), measured(scores, labels.assign(late=1))
    assert few.verdict.why == "50 scores have a label, of at least 100: too few to tell"
    assert single.verdict.why == "2,000 of 2,000 labels are 1: at least 2 of either kind are needed"
    assert few.verdict.outcome == single.verdict.outcome == "inconclusive"
    assert few.value is None and single.log_loss is None


def test_certain_and_wrong_predictions_have_a_finite_log_loss():
    scores, labels = month()
    report = measured(scores.assign(probability=(scores.id % 2).astype("float64")), labels)
    assert np.isfinite(report.log_loss)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda s, y: (s.drop(columns="probability"), y),
            "scores file breaks the contract: probability is miss",
        ),
        (lambda s, y: (s, y.drop(columns="id")), "labels file breaks the contract: id is missing"),
        (lambda s, y: (s, y.assign(id=1)), "labels file breaks the contract: id is not unique"),
        (lambda s, y: (s, y.astype({"id": str})), "id is of another type than in the scores; convert it"),
        (lambda s, y: (s, y.assign(late=2)), "late holds values other than 0 and 1"),
    ],
    ids=["no output", "no key", "key twice", "key as text", "label 2"],
)
def test_broken_files_are_refused(change, sentence: str):
    with pytest.raises(ContractBroken, match=sentence):
        measured(*change(*month()))


def test_a_report_is_read_as_it_was_saved(tmp_path: Path):
    report = measured(*month())
    report.save(tmp_path / "performance.json")
    assert PerformanceReport.load(tmp_path / "performance.json") == report
