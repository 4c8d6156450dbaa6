"""Scores against the labels that arrived later."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.core.errors import ContractBroken
from pipelines.core.metrics import metric_of
from pipelines.core.performance import PerformanceReport, measure_performance
from pipelines.core.spec import MonitoringSpec

SPEC = MonitoringSpec(min_rows=100, max_drop=0.05)


def month(rows: int = 2000, signal: float = 1.0) -> tuple[pd.DataFrame, pd.DataFrame]:
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, rows)
    logits = signal * (truth - 0.5) + random.normal(size=rows)
    scores = pd.DataFrame({"id": np.arange(rows), "probability": 1 / (1 + np.exp(-logits))})
    return scores, pd.DataFrame({"id": np.arange(rows), "late": truth}).sample(frac=1, random_state=1)


def measured(
    scores: pd.DataFrame,
    labels: pd.DataFrame,
    holdout_value: float = 0.76,
    label="late",
    metric="auc",
    output="probability",
) -> PerformanceReport:
    return measure_performance(
        scores,
        labels,
        key="id",
        label=label,
        output=output,
        metric=metric_of(metric, 0.5),
        holdout_value=holdout_value,
        spec=SPEC,
        subject="flight_delay:1",
        month="2013-04",
    )


def test_rows_are_joined_by_key_and_the_figures_are_right():
    ids = np.arange(160)
    scores = pd.DataFrame({"id": ids, "probability": np.tile([0.1, 0.4, 0.35, 0.8], 40)})
    labels = pd.DataFrame({"id": ids[::-1], "late": np.tile([1, 1, 0, 0], 40)})
    report = measure_performance(
        scores,
        labels,
        key="id",
        label="late",
        output="probability",
        metric=metric_of("auc", 0.5),
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
    assert "worse than the holdout's 0.760; it may be 0.05 worse" in report.verdict.why


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
    assert single.verdict.why == "all 2,000 labels are 1"
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


def test_any_metric_of_the_gate_is_held_against_its_holdout():
    random = np.random.default_rng(0)
    truth = random.normal(size=500)
    scores = pd.DataFrame({"id": np.arange(500), "fare": truth + random.normal(size=500)})
    labels = pd.DataFrame({"id": np.arange(500), "paid": truth})
    report = measured(scores, labels, 0.8, "paid", "rmse", "fare")
    assert report.value == pytest.approx(1, abs=0.1) and report.log_loss is None
    assert not report.verdict.passed and "worse than the holdout's 0.800" in report.verdict.why


def test_labels_may_be_named_like_the_scores():
    scores, labels = month()
    assert measured(scores, labels.rename(columns={"late": "probability"}), label="probability") == measured(
        scores, labels
    )


def test_a_metric_whose_error_is_not_known_is_inconclusive(tmp_path: Path):
    report = measured(*month(), metric="tests.assets.own:picky")
    assert report.verdict.outcome == "inconclusive" and report.value is None
    assert "the error of tests.assets.own:picky is not known" in report.verdict.why
    report.save(tmp_path / "performance.json")
