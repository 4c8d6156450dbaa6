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
    ],
)
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
    ],
)
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
