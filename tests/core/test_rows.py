"""Rows are read whole and named in errors; samples are the same each time."""

import numpy as np
import pandas as pd
import pytest

from pipelines.core.errors import ContractBroken, FileMissing
from pipelines.core.rows import digest_of, read_rows, sample, to_tensors
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


def test_a_sample_is_the_same_each_time_and_in_order():
    frame = pd.DataFrame({"x": np.arange(1000)})
    some = sample(frame, 100)
    assert len(some) == 100 and some["x"].is_monotonic_increasing and some.equals(sample(frame, 100))
    assert sample(frame, 1000) is frame


def test_a_digest_depends_on_every_part_and_their_borders():
    assert len({digest_of("a", "b"), digest_of("ab"), digest_of("b", "a"), digest_of("a", "b", "")}) == 4
