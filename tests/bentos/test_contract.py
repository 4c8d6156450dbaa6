"""The one encoding: what each field accepts, what it refuses, and what a round trip keeps."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bentos.contract import Contract, ContractViolation, Field, encode
from tests.bentos.tiny import CONTRACT

CLOSED = Field("x", "int64", categories=("UA", "AA"))
OPEN = Field("x", "int64", categories=("UA", "AA"), open=True)
WHOLE = Field("x", "int64", minimum=0, maximum=9)
NUMBER = Field("x", "float32")
NULLABLE = Field("x", "float32", nullable=True)
PAIR = Field("x", "float32", shape=(-1, 2))
TOKENS = Field("x", "int64", shape=(-1, -1), minimum=1)
TAGS = Field("x", "int64", shape=(-1, -1), categories=("UA", "AA"))
IMAGES = Field("x", "float32", shape=(-1, -1, 2))
SHORT = Field("x", "int64", shape=(-1, -1), max_length=2)
BYTE = Field("x", "int8")
FLAG = Field("x", "bool")


def rows_of(*rows) -> np.ndarray:
    """As list columns of Parquet arrive: an object array of arrays."""
    return np.fromiter(rows, dtype=object, count=len(rows))


def encoded(field: Field, values) -> np.ndarray:
    return encode(Contract((field,), ()), {"x": np.asarray(values)})["x"]


@pytest.mark.parametrize(
    ("field", "values", "expected"),
    [
        pytest.param(CLOSED, ["AA", "UA"], [2, 1], id="category i is code i + 1"),
        pytest.param(OPEN, ["AA", "B6", ""], [2, 0, 0], id="any other string is 0"),
        pytest.param(CLOSED, np.array(["AA"], dtype=object), [2], id="objects that are strings"),
        pytest.param(WHOLE, [0, 9], [0, 9], id="both ends of the range"),
        pytest.param(WHOLE, [3.0], [3], id="a float without fraction"),
        pytest.param(WHOLE, [True], [1], id="a boolean"),
        pytest.param(NUMBER, [1, -2], [1.0, -2.0], id="whole numbers for a float"),
        pytest.param(NULLABLE, [1.5, np.nan], [1.5, np.nan], id="NaN where it is allowed"),
        pytest.param(PAIR, [[1.0, 2.0]], [[1.0, 2.0]], id="a vector a row"),
        pytest.param(NUMBER, np.array([], dtype=float), [], id="no rows"),
        pytest.param(PAIR, rows_of([1, 2], np.array([3.0, 4.0])), [[1, 2], [3, 4]], id="lists and arrays"),
        pytest.param(PAIR, rows_of(), np.zeros((0, 2)), id="no lists"),
        pytest.param(TOKENS, [[5, 6, 7]], [[5, 6, 7]], id="any length"),
        pytest.param(
            TOKENS, rows_of([5, 6], [7], [8, 9, 1]), [[5, 6, 0], [7, 0, 0], [8, 9, 1]],
            id="lists of different length, padded beyond the range",
        ),
        pytest.param(SHORT, rows_of([5, 6], [7]), [[5, 6], [7, 0]], id="the longest that is allowed"),
        pytest.param(BYTE, [127, -128], [127, -128], id="both ends of the dtype"),
        pytest.param(FLAG, [0, 1], [False, True], id="numbers for a boolean"),
        pytest.param(TAGS, rows_of(["AA", "UA"], ["AA"]), [[2, 1], [2, 0]], id="lists of strings"),
        pytest.param(
            IMAGES, rows_of(rows_of([1.0, 2.0], [3.0, 4.0]), rows_of([5.0, 6.0])),
            [[[1, 2], [3, 4]], [[5, 6], [0, 0]]], id="lists of lists",
        ),
    ],
)  # fmt: skip
def test_accepts(field, values, expected):
    tensor = encoded(field, values)
    assert tensor.dtype == field.dtype
    np.testing.assert_array_equal(tensor, np.array(expected, dtype=field.dtype))


@pytest.mark.parametrize(
    ("field", "values", "reason"),
    [
        pytest.param(CLOSED, ["AA", "ZZ"], "'ZZ' is not one of its categories", id="unknown category"),
        pytest.param(CLOSED, [1], "where strings are expected", id="a number for a category"),
        pytest.param(OPEN, np.array(["AA", None], dtype=object), "not strings", id="None for a category"),
        pytest.param(NUMBER, ["1.5"], "where numbers are expected", id="a string for a number"),
        pytest.param(NUMBER, [1.0, np.nan], "NaN in 1 of 2 rows", id="NaN"),
        pytest.param(NULLABLE, [np.inf], "infinite", id="infinity, even where NaN is allowed"),
        pytest.param(WHOLE, [1.5], "fractions", id="a fraction for an integer"),
        pytest.param(WHOLE, [-1], "below 0", id="below the range"),
        pytest.param(WHOLE, [10], "above 9", id="above the range"),
        pytest.param(PAIR, [[1.0, 2.0, 3.0]], "shape", id="a vector of another length"),
        pytest.param(PAIR, rows_of([1.0, 2.0], [1.0]), r"shape \(2, 1\)", id="a list of another length"),
        pytest.param(SHORT, [[1, 2, 3]], "is 3 long, allowed are 2", id="too long"),
        pytest.param(SHORT, rows_of([1], [1, 2, 3]), "is 3 long, allowed are 2", id="a list too long"),
        pytest.param(NUMBER, [1e39], "infinite", id="infinite as float32"),
        pytest.param(BYTE, [128], "beyond int8", id="beyond the dtype"),
        pytest.param(BYTE, [1e30], "beyond int8", id="a float beyond the dtype"),
        pytest.param(BYTE, [np.nan], "NaN in 1", id="NaN for an integer"),
        pytest.param(FLAG, [2], "beyond bool", id="no boolean"),
        pytest.param(CLOSED, ["Z" * 1000], "^x: 'Z{80}' is not one", id="a long string is not repeated"),
        pytest.param(TOKENS, rows_of([1], None), r"shape \(2,\) where \(-1, -1\)", id="no list"),
        pytest.param(TOKENS, rows_of([1], []), r"shape \(2, 0\)", id="an empty list"),
        pytest.param(TOKENS, np.zeros((2, 0)), r"shape \(2, 0\)", id="nothing but empty lists"),
        pytest.param(TOKENS, rows_of([1], [0]), "below 1", id="below the range, in a list"),
        pytest.param(TOKENS, rows_of([1], ["a"]), "where numbers are expected", id="a string in a list"),
        pytest.param(TOKENS, rows_of([1.0], [np.nan]), "NaN in 1", id="NaN in a list"),
        pytest.param(TAGS, rows_of(["AA"], ["ZZ"]), "'ZZ' is not one", id="unknown category in a list"),
        pytest.param(TAGS, rows_of(rows_of("AA", None)), "not strings", id="None among strings"),
        pytest.param(IMAGES, rows_of([[1.0, 2.0], [3.0]]), "inner lists differ", id="ragged within a row"),
        pytest.param(
            IMAGES, rows_of(rows_of([1.0, 2.0], [3.0])), "inner lists differ", id="ragged arrays within a row"
        ),
    ],
)  # fmt: skip
def test_refuses(field, values, reason):
    with pytest.raises(ContractViolation, match=reason) as refused:
        encoded(field, values)
    assert refused.value.field == "x"


def test_names_the_missing_column():
    with pytest.raises(ContractViolation, match="origin: is missing"):
        encode(CONTRACT, {"carrier": np.array(["AA"])})


def test_refuses_columns_of_different_length():
    contract = Contract((Field("a", "int64"), Field("b", "int64")), ())
    with pytest.raises(ContractViolation, match="differ in length"):
        encode(contract, {"a": np.arange(2), "b": np.arange(3)})


PAIRED = Contract(
    (
        Field("ids", "int64", (-1, -1), axes=("tokens",)),
        Field("grid", "float32", (-1, -1, -1), axes=("", "tokens")),
    ),
    (),
)


@pytest.mark.parametrize(
    ("ids", "grid"),
    [
        pytest.param(np.ones((2, 3)), np.ones((2, 1, 3)), id="tensors"),
        pytest.param(rows_of([1], [1, 2]), rows_of([[1.0]], [[1.0, 2.0]] * 3), id="lists"),
        pytest.param(rows_of([1, 2], [1, 2]), np.ones((2, 5, 2)), id="lists and a tensor"),
    ],
)
def test_inputs_that_share_an_axis_fit(ids, grid):
    feeds = encode(PAIRED, {"ids": ids, "grid": grid})
    assert feeds["ids"].shape[1] == feeds["grid"].shape[2]


@pytest.mark.parametrize(
    ("ids", "grid"),
    [
        pytest.param(np.ones((2, 3)), np.ones((2, 3, 1)), id="tensors"),
        pytest.param(rows_of([1], [1, 2]), rows_of([[1.0, 2.0]], [[1.0]]), id="lists of one total"),
        pytest.param(rows_of([1], [1, 2]), np.ones((2, 5, 2)), id="lists and a tensor"),
    ],
)
def test_inputs_that_share_an_axis_do_not_differ_in_length(ids, grid):
    with pytest.raises(ContractViolation, match="grid: differs from ids in length"):
        encode(PAIRED, {"ids": ids, "grid": grid})


def test_survives_json():
    assert Contract.from_dict(json.loads(json.dumps(CONTRACT.to_dict()))) == CONTRACT


# NumPy's strings end at the last character that is not NUL, so such names are not told apart.
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


@given(st.data(), st.lists(names, min_size=1, max_size=8, unique=True), st.booleans())
def test_codes_decode_to_the_categories(data, categories, is_open):
    field = Field("x", "int64", categories=tuple(categories), open=is_open)
    values = data.draw(st.lists(st.sampled_from(categories), min_size=1))
    codes = encoded(field, np.array(values, dtype=object))
    assert [categories[code - 1] for code in codes] == values


@given(
    st.lists(
        st.lists(st.lists(st.integers(1, 9), min_size=2, max_size=2), min_size=1, max_size=4), min_size=1
    )
)
def test_padding_adds_nothing_but_zeros_at_the_ends(rows):
    tensor = encoded(IMAGES, rows_of(*rows))
    assert tensor.shape == (len(rows), max(map(len, rows)), 2)
    for row, values in zip(rows, tensor, strict=True):
        assert values[: len(row)].tolist() == row and not values[len(row) :].any()
