"""Rows against the contract: every breach is one sentence that names the column, the rows and the mend."""

import warnings

import numpy as np
import pandas as pd
import pytest

from bentos.contract import Contract, Field
from pipelines.core.expectations import validate_rows, validate_scores

CONTRACT = Contract(
    inputs=(
        Field("carrier", "int64", categories=("AA", "BB", "CC")),
        Field("dest", "int64", categories=("ATL", "BOS"), open=True),
        Field("distance", "float32", minimum=0, maximum=100),
        Field("temp", "float32", nullable=True),
        Field("hour", "int64"),
    ),
    outputs=(Field("probability", "float32"), Field("share", "float32", minimum=0, maximum=1)),
)


def rows(count: int = 100) -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "id": np.arange(count),
            "carrier": random.choice(["AA", "BB"], count),
            "dest": random.choice(["ATL", "BOS"], count),
            "distance": random.uniform(0, 100, count).astype("float32"),
            "temp": random.normal(size=count),
            "hour": random.integers(0, 24, count),
            "late": random.integers(0, 2, count),
        }
    )


def changed(column: str, at: int, value: object) -> pd.DataFrame:
    frame = rows()
    if column in ("carrier", "dest", "distance"):
        frame[column] = frame[column].astype(object if isinstance(value, str) else "float64")
    if column == "hour" and not isinstance(value, int):
        frame[column] = frame[column].astype(object if isinstance(value, str) else "float64")
    frame.loc[at, column] = value
    return frame


def judged(frame: pd.DataFrame):
    return validate_rows(CONTRACT, frame, "holdout", key="id", label="late", subject="abc")


def test_good_rows_pass():
    verdict = judged(rows()).verdict
    assert verdict.passed and verdict.gate == "expectations" and verdict.subject == "abc"
    assert verdict.numbers == {"rows": 100, "evaluated": 27, "failed": 0}
    assert verdict.why == "all 27 expectations hold for 100 holdout rows"


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        (
            "carrier",
            "ZZ",
            "carrier must be one of its 3 categories, but 1 of 100 rows breaks this, e.g. 'ZZ'",
        ),
        (
            "distance",
            np.nan,
            "distance must never be empty or NaN, but 1 of 100 rows breaks this; fill or drop",
        ),
        ("distance", 400.0, "distance must be at least 0 and at most 100, but 1 of 100 rows breaks this"),
        (
            "distance",
            "far",
            "distance must hold numbers, but 1 of 100 rows breaks this, e.g. 'far'; write it as",
        ),
        ("temp", np.inf, "temp must be finite, but 1 of 100 rows breaks this, e.g. inf"),
        ("hour", 1.5, "hour must hold whole numbers, but 1 of 100 rows breaks this, e.g. 1.5"),
        ("hour", np.nan, "hour must never be empty or NaN, but 1 of 100 rows breaks this"),
        ("id", 5, "id must be unique, but 2 of 100 rows break this, e.g. 5; drop the duplicates"),
        ("late", 2, "late must be 0 or 1, but 1 of 100 rows breaks this, e.g. 2"),
    ],
)
def test_one_bad_value_is_one_sentence(column: str, value: object, sentence: str):
    verdict = judged(changed(column, 3, value)).verdict
    assert verdict.outcome == "fail" and len(verdict.reasons) == 1
    assert verdict.reasons[0].startswith(f"holdout: {sentence}")


def test_a_nullable_column_may_hold_nan_and_an_open_one_strangers():
    frame = changed("temp", 1, np.nan)
    frame.loc[:3, "dest"] = "OSL"
    assert judged(frame).verdict.passed
    frame.loc[:5, "dest"] = "OSL"
    assert "dest must be one of its 2 categories in 95% of the rows" in judged(frame).verdict.why


def test_a_missing_and_a_mistyped_column_are_one_sentence_each():
    frame = rows().drop(columns=["distance"]).assign(carrier=1)
    assert judged(frame).verdict.reasons == (
        "holdout: carrier must hold strings, but it holds int64; write it as text",
        "holdout: distance must be a column; add it to the data",
    )


def test_a_column_without_any_value_is_one_sentence():
    verdict = judged(rows().assign(distance=None)).verdict
    assert len(verdict.reasons) == 1
    assert "distance must never be empty or NaN, but 100 of 100 rows break this" in verdict.why


@pytest.mark.parametrize("frame", [rows(0), rows().iloc[:0], pd.DataFrame()], ids=["typed", "sliced", "bare"])
def test_no_rows_fail(frame: pd.DataFrame):
    verdict = judged(frame).verdict
    assert verdict.outcome == "fail"
    assert verdict.reasons[0].startswith("holdout: the table must hold at least one row, but it holds 0")


def test_whole_floats_and_dictionary_columns_are_as_good_as_integers_and_strings():
    frame = rows().astype({"hour": "float64", "carrier": "category"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert judged(frame).verdict.passed


def test_the_table_shows_every_expectation_with_what_was_found():
    markdown = judged(changed("carrier", 0, "Z|Z")).markdown.splitlines()
    assert len(markdown) == 2 + 27
    assert (
        "| ✗ | carrier | be one of its 3 categories | 1 of 100 rows breaks this, e.g. 'Z\\|Z' |" in markdown
    )
    assert "| ✓ | the table | hold at least one row |  |" in markdown


def scores(count: int = 100) -> pd.DataFrame:
    return pd.DataFrame({"id": np.arange(count), "probability": 5.0, "share": 0.5})


def test_scores_pass_when_complete_unique_and_finite():
    assert validate_scores(CONTRACT, scores(), "id", 100, subject="abc").verdict.passed


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        (scores(99), "the table must hold 100 rows, but it holds 99; look at the inputs"),
        (scores().assign(id=0), "id must be unique, but 100 of 100 rows break this, e.g. 0"),
        (scores().assign(probability=np.nan), "probability must never be empty or NaN"),
        (scores().assign(probability=-np.inf), "probability must be finite"),
        (scores().assign(share=1.5), "share must be at least 0 and at most 1, but"),
        (scores().drop(columns="share"), "share must be a column"),
    ],
)
def test_bad_scores_fail(frame: pd.DataFrame, sentence: str):
    verdict = validate_scores(CONTRACT, frame, "id", 100, subject="abc").verdict
    assert len(verdict.reasons) == 1 and verdict.reasons[0].startswith(f"scores: {sentence}")
