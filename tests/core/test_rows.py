"""Rows are read whole and named in errors; samples are the same each time."""

import json

import numpy as np
import pandas as pd
import pytest
from pydantic import TypeAdapter

from bentos.contract import Contract, Field
from bentos.schema import row_type
from pipelines.core.errors import ContractBroken, FileMissing
from pipelines.core.rows import digest_of, read_rows, sample, stream_tensors, to_array, to_records, to_tensors
from tests.bentos.tiny import CONTRACT, ROW

FRAME = pd.DataFrame([{**ROW, "wind": 1.0}] * 3)


def test_rows_become_tensors():
    tensors = to_tensors(CONTRACT, FRAME, "holdout")
    assert {name: (values.dtype.name, values.shape) for name, values in tensors.items()} == {
        field.name: (field.dtype, (3,)) for field in CONTRACT.inputs
    }
    assert tensors["carrier"].tolist() == [2, 2, 2]


def test_a_bad_column_is_named():
    with pytest.raises(ContractBroken, match=r"The holdout data breaks the contract: hour: is missing"):
        to_tensors(CONTRACT, FRAME.drop(columns="hour"), "holdout")


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(FileMissing, match=r"The holdout file .*none\.parquet does not exist"):
        read_rows(tmp_path / "none.parquet", "holdout")
    (tmp_path / "text.parquet").write_text("id,y\n")
    with pytest.raises(ContractBroken, match=r"The holdout file .*text\.parquet .* write it as Parquet"):
        read_rows(tmp_path / "text.parquet", "holdout")


def test_a_stream_holds_the_first_rows_a_batch_at_a_time(tmp_path):
    frame = pd.concat([FRAME] * 4).assign(hour=range(12), other="of no use")
    frame.to_parquet(tmp_path / "rows.parquet")
    batches = list(stream_tensors(CONTRACT, tmp_path / "rows.parquet", "calibration", 5, 8))
    assert [batch["hour"].tolist() for batch in batches] == [[0, 1, 2, 3, 4], [5, 6, 7]]
    whole = to_tensors(CONTRACT, frame.head(5), "calibration")
    for name, values in batches[0].items():
        np.testing.assert_array_equal(values, whole[name])
    every = stream_tensors(CONTRACT, tmp_path / "rows.parquet", "calibration", 5, 100)
    assert sum(len(batch["hour"]) for batch in every) == 12


def test_list_columns_are_read_and_padded(tmp_path):
    contract = Contract((Field("ids", "int64", (-1, -1)), Field("grid", "float32", (-1, 2, 2))), ())
    frame = pd.DataFrame({"ids": [[1, 2], [3]], "grid": [[[1.0, 2.0], [3.0, 4.0]]] * 2})
    frame.to_parquet(tmp_path / "rows.parquet")
    (streamed,) = stream_tensors(contract, tmp_path / "rows.parquet", "calibration", 9, 9)
    read = to_tensors(contract, read_rows(tmp_path / "rows.parquet", "calibration"), "calibration")
    for tensors in (streamed, read):
        assert tensors["ids"].tolist() == [[1, 2], [3, 0]]
        assert tensors["grid"].tolist() == [[[1, 2], [3, 4]]] * 2


def test_a_stream_names_what_is_wrong(tmp_path):
    def stream(name: str):
        return next(stream_tensors(CONTRACT, tmp_path / name, "calibration", 5, 5))

    with pytest.raises(FileMissing, match=r"The calibration file .*none\.parquet does not exist"):
        stream("none.parquet")
    (tmp_path / "text.parquet").write_text("id,y\n")
    with pytest.raises(ContractBroken, match=r"The calibration file .* write it as Parquet"):
        stream("text.parquet")
    FRAME.drop(columns="hour").to_parquet(tmp_path / "less.parquet")
    with pytest.raises(ContractBroken, match=r"The calibration data breaks the contract: hour: is missing"):
        stream("less.parquet")
    FRAME.assign(hour=99).to_parquet(tmp_path / "above.parquet")
    with pytest.raises(ContractBroken, match=r"The calibration data breaks the contract: hour: is above 23"):
        stream("above.parquet")


def test_a_sample_is_the_same_each_time_and_in_order():
    frame = pd.DataFrame({"x": np.arange(1000)})
    some = sample(frame, 100)
    assert len(some) == 100 and some["x"].is_monotonic_increasing and some.equals(sample(frame, 100))
    assert sample(frame, 1000) is frame


def test_a_digest_depends_on_every_part_and_their_borders():
    assert len({digest_of("a", "b"), digest_of("ab"), digest_of("b", "a"), digest_of("a", "b", "")}) == 4


def test_records_are_what_json_can_hold_and_the_service_takes():
    fields = {
        "name": Field("name", "int64", categories=("a", "b")),
        "hour": Field("hour", "int32"),
        "loud": Field("loud", "bool"),
        "wind": Field("wind", "float32", nullable=True),
        "words": Field("words", "int64", (-1, -1), categories=("new", "old")),
        "grid": Field("grid", "float32", (-1, -1, 2), nullable=True),
    }
    contract = Contract(tuple(fields.values()), ())
    frame = pd.DataFrame(
        {
            "name": ["a", "b"],
            "hour": [7.0, 8.0],
            "loud": [0, 1],
            "wind": [0.5, np.nan],
            "words": [np.array(["new"], object), ["old", "new"]],
            "grid": [np.array([np.float32([1, 2])], object), [[np.nan, 4.0], [5, 6]]],
            "other": [1, 2],
        }
    )
    records = to_records(contract, frame)
    assert records == [
        {"name": "a", "hour": 7, "loud": False, "wind": 0.5, "words": ["new"], "grid": [[1.0, 2.0]]},
        {
            "name": "b",
            "hour": 8,
            "loud": True,
            "wind": None,
            "words": ["old", "new"],
            "grid": [[None, 4.0], [5.0, 6.0]],
        },
    ]
    assert TypeAdapter(list[row_type(contract)]).validate_json(json.dumps(records)) == records


def test_columns_of_numbers_or_vectors_become_arrays():
    assert to_array(pd.Series([1, 2]), "labels").tolist() == [1, 2]
    assert to_array(pd.Series([[1.0, 2.0], [3.0, 4.0]]), "labels").shape == (2, 2)
    with pytest.raises(ContractBroken, match=r"The labels data .* y holds lists of several lengths"):
        to_array(pd.Series([[1.0], [3.0, 4.0]], name="y"), "labels")
