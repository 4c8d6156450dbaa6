"""A month against the reference, with Evidently itself."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bentos.contract import Contract, Field
from pipelines.core.drift import DriftReport, measure_drift
from pipelines.core.errors import ContractBroken, SettingsInvalid
from pipelines.core.spec import ColumnDrift, MonitoringSpec

CONTRACT = Contract(
    inputs=(
        Field("carrier", "int64", categories=("AA", "BB", "CC")),
        Field("distance", "float32"),
        Field("temp", "float32", nullable=True),
        Field("vector", "float32", shape=(-1, 4)),
    ),
    outputs=(Field("probability", "float32"),),
)
SPEC = MonitoringSpec(min_rows=100, max_rows=2000, max_drifted_share=0.3)


def rows(count: int = 3000, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "carrier": random.choice(["AA", "BB", "CC"], count),
            "distance": random.uniform(0, 100, count),
            "temp": random.normal(size=count),
            "probability": random.uniform(size=count),
        }
    )


def measured(current: pd.DataFrame, html: Path, spec: MonitoringSpec = SPEC) -> DriftReport:
    return measure_drift(rows(), current, CONTRACT, spec, html, subject="abc", month="2013-04")


def results(report: DriftReport) -> dict:
    return {column.column: column for column in report.columns}


def test_the_same_distribution_does_not_drift(tmp_path: Path):
    report = measured(rows(seed=1), tmp_path / "drift.html")
    assert report.verdict.passed and report.drifted_share == 0
    assert report.verdict.why == "0 of 4 columns drifted, at most 30% may, and no output did"
    assert (report.rows_current, report.rows_reference) == (3000, 3000)
    assert list(results(report)) == ["carrier", "distance", "temp", "probability"]


def test_every_column_has_the_method_and_threshold_of_the_settings(tmp_path: Path):
    spec = MonitoringSpec(
        min_rows=100,
        numeric=ColumnDrift(method="psi", threshold=0.3),
        columns={"temp": ColumnDrift(method="ks", threshold=0.01)},
    )
    columns = results(measured(rows(seed=1), tmp_path / "drift.html", spec))
    assert [(c.role, c.method, c.threshold) for c in columns.values()] == [
        ("input", "jensenshannon", 0.1),
        ("input", "psi", 0.3),
        ("input", "ks", 0.01),
        ("output", "wasserstein", 0.1),
    ]


@pytest.mark.parametrize("method", ["wasserstein", "jensenshannon", "psi", "ks", "kl_div", "hellinger"])
def test_a_moved_number_drifts_by_every_method_and_an_unmoved_one_does_not(tmp_path: Path, method: str):
    rule = ColumnDrift(method=method, threshold=0.001 if method == "ks" else 0.1)
    spec = SPEC.model_copy(update={"numeric": rule})
    columns = results(measured(rows(seed=1).assign(temp=lambda f: f.temp + 2), tmp_path / "a.html", spec))
    assert columns["temp"].drifted and not columns["distance"].drifted


def test_a_p_value_drifts_below_its_threshold_and_says_so(tmp_path: Path):
    spec = SPEC.model_copy(update={"categorical": ColumnDrift(method="chisquare", threshold=0.001)})
    report = measured(rows(seed=1).assign(carrier="AA"), tmp_path / "a.html", spec)
    carrier = results(report)["carrier"]
    assert carrier.drifted and carrier.score < 0.001
    assert str(carrier) == "input carrier (chisquare p-value 0, below 0.001)"


def test_a_drifted_input_is_named_but_allowed_up_to_the_share(tmp_path: Path):
    current = rows(seed=1).assign(carrier="AA")
    report = measured(current, tmp_path / "a.html")
    assert report.verdict.passed and report.drifted_share == 0.25
    assert "input carrier (jensenshannon distance" in report.verdict.why
    report = measured(current, tmp_path / "a.html", SPEC.model_copy(update={"max_drifted_share": 0.2}))
    assert report.verdict.outcome == "fail"
    assert report.verdict.reasons[0] == "1 of 4 columns drifted, more than the 20% that may"


def test_a_drifted_output_fails_alone(tmp_path: Path):
    report = measured(rows(seed=1).assign(probability=lambda f: f.probability**4), tmp_path / "a.html")
    assert report.verdict.outcome == "fail" and len(report.verdict.reasons) == 1
    assert report.verdict.reasons[0].startswith("output probability (wasserstein distance ")


def test_too_few_rows_are_inconclusive_and_leave_no_page(tmp_path: Path):
    report = measured(rows(99), tmp_path / "drift.html")
    assert report.verdict.outcome == "inconclusive" and report.drifted_share is None
    assert report.verdict.why == "99 current rows of at least 100: too few to tell"
    assert not list(tmp_path.iterdir())


def test_a_column_that_lost_all_its_values_drifts(tmp_path: Path):
    report = measured(rows(seed=1).assign(temp=None), tmp_path / "drift.html")
    temp = results(report)["temp"]
    assert temp.drifted and temp.score is None
    assert "input temp has no values on one side" in report.verdict.why


@pytest.mark.parametrize(
    ("current", "sentence"),
    [
        (rows().drop(columns="distance"), "The current data breaks the contract: distance is missing"),
        (rows().assign(distance="far"), "The current data breaks the contract: a number is expected .*'far'"),
    ],
    ids=["missing", "mistyped"],
)
def test_a_broken_frame_is_refused(tmp_path: Path, current: pd.DataFrame, sentence: str):
    with pytest.raises(ContractBroken, match=sentence):
        measured(current, tmp_path / "drift.html")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"carier": ColumnDrift(method="psi", threshold=0.1)}, "is 'carier'; the columns are carrier, dist"),
        (
            {"carrier": ColumnDrift(method="ks", threshold=0.1)},
            "method of carrier is 'ks'; the column is cat",
        ),
        (
            {"temp": ColumnDrift(method="chisquare", threshold=0.1)},
            "method of temp is 'chisquare'; the column",
        ),
    ],
    ids=["unknown", "categorical", "numeric"],
)
def test_settings_that_do_not_fit_the_columns_are_refused(tmp_path: Path, columns: dict, sentence: str):
    with pytest.raises(SettingsInvalid, match=sentence):
        measured(rows(), tmp_path / "a.html", SPEC.model_copy(update={"columns": columns}))


def test_the_page_loads_nothing_and_equal_data_give_equal_reports(tmp_path: Path):
    first, again = (measured(rows(5000, seed=1), tmp_path / name) for name in ("a.html", "b.html"))
    assert first == again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]
    html = (tmp_path / "a.html").read_text()
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)\s*=\s*[\"']?(https?:)?//", html)


def test_a_report_is_read_as_it_was_saved(tmp_path: Path):
    for name, current in (("full", rows(seed=1)), ("few", rows(9)), ("empty", rows().assign(temp=np.nan))):
        report = measured(current, tmp_path / "drift.html")
        report.save(tmp_path / name)
        assert DriftReport.load(tmp_path / name) == report
