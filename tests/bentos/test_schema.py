"""Request rows: what passes is what `encode` accepts, and every refusal names its field."""

import numpy as np
import orjson
import pytest
from pydantic import TypeAdapter, ValidationError

from bentos.contract import Contract, Field, Text, encode
from bentos.schema import MAX_STRING_LENGTH, columns, prediction_type, predictions, row_type
from tests.bentos.tiny import CONTRACT, ROW

ROWS = TypeAdapter(list[row_type(CONTRACT)])


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"origin": "XXX"}, id="any string for an open category"),
        pytest.param({"wind": 1}, id="a whole number for a float"),
        pytest.param({"wind": None}, id="null where it is allowed"),
        pytest.param({"dep delay": -100}, id="the end of a range"),
        pytest.param({"dep delay": 3.4e38}, id="the largest float32"),
    ],
)
def test_what_passes_is_encoded(changed):
    (row,) = ROWS.validate_python([{**ROW, **changed}])
    feeds = encode(CONTRACT, columns(CONTRACT, [row]))
    assert {name: tensor.dtype for name, tensor in feeds.items()} == {
        field.name: field.dtype for field in CONTRACT.inputs
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("carrier", "ZZ", id="unknown category"),
        pytest.param("carrier", None, id="null for a category"),
        pytest.param("origin", "x" * (MAX_STRING_LENGTH + 1), id="a string that would widen the batch"),
        pytest.param("hour", 7.5, id="a fraction for an integer"),
        pytest.param("hour", "7", id="a string for an integer"),
        pytest.param("hour", True, id="a boolean for an integer"),
        pytest.param("hour", 24, id="above the range"),
        pytest.param("dep delay", "NaN", id="the string NaN"),
        pytest.param("dep delay", float("nan"), id="NaN"),
        pytest.param("dep delay", float("inf"), id="infinity"),
        pytest.param("dep delay", 1e39, id="infinite as float32"),
        pytest.param("dep delay", None, id="null where it is not allowed"),
        pytest.param("surprise", 1, id="a field that the contract lacks"),
    ],
)
def test_refusals_name_the_field(field, value):
    with pytest.raises(ValidationError) as refused:
        ROWS.validate_python([ROW, {**ROW, field: value}])
    assert {error["loc"][:2] for error in refused.value.errors()} == {(1, field)}


def test_a_missing_field_is_named():
    with pytest.raises(ValidationError) as refused:
        ROWS.validate_python([{name: value for name, value in ROW.items() if name != "hour"}])
    assert [error["loc"] for error in refused.value.errors()] == [(0, "hour")]


def test_vectors_have_their_length():
    contract = Contract((Field("x", "float32", (-1, 2)), Field("flag", "bool")), ())
    rows = TypeAdapter(list[row_type(contract)])
    feeds = encode(contract, columns(contract, rows.validate_python([{"x": [1.0, 2.0], "flag": True}])))
    assert feeds["x"].shape == (1, 2)
    assert feeds["flag"].dtype == bool
    with pytest.raises(ValidationError, match="too_long"):
        rows.validate_python([{"x": [1.0, 2.0, 3.0], "flag": True}])


TEXTS = Contract(
    (
        Field("ids", "int64", (-1, -1), minimum=0),
        Field("grid", "float32", (-1, -1, -1), nullable=True),
        Field("tags", "int64", (-1, -1), categories=("a", "b")),
    ),
    (Field("logits", "float32", (-1, -1, 2)),),
)
TEXT = {"ids": [1, 2, 3], "grid": [[1.0, None]], "tags": ["b"]}


def test_lists_of_any_length_share_a_batch():
    rows = TypeAdapter(list[row_type(TEXTS)]).validate_python(
        [TEXT, {"ids": [4], "grid": [[1.0], [2.0]], "tags": ["a", "a"]}]
    )
    feeds = encode(TEXTS, columns(TEXTS, rows))
    assert feeds["ids"].tolist() == [[1, 2, 3], [4, 0, 0]] and feeds["ids"].dtype == "int64"
    np.testing.assert_array_equal(feeds["grid"], [[[1, np.nan], [0, 0]], [[1, 0], [2, 0]]])
    assert feeds["tags"].tolist() == [[2, 0], [1, 1]]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        pytest.param("ids", [], "too_short", id="an empty list"),
        pytest.param("ids", 1, "list_type", id="no list"),
        pytest.param("ids", [1, -1], "greater_than_equal", id="a number below the range"),
        pytest.param("ids", [[1]], "int_type", id="lists too deep"),
        pytest.param("grid", [[1.0, 2.0], [3.0]], "inner lists differ in length", id="ragged within a row"),
        pytest.param("tags", ["a", "c"], "literal_error", id="an unknown category"),
    ],
)
def test_a_bad_list_is_refused_by_name(field, value, reason):
    with pytest.raises(ValidationError, match=reason) as refused:
        TypeAdapter(list[row_type(TEXTS)]).validate_python([TEXT, {**TEXT, field: value}])
    assert {error["loc"][:2] for error in refused.value.errors()} == {(1, field)}


def test_lists_of_any_length_have_a_schema_and_answers():
    schema = TypeAdapter(row_type(TEXTS)).json_schema()["properties"]["ids"]
    assert schema["minItems"] == 1 and "maxItems" not in schema
    answers = predictions({"logits": np.float32([[[1, 2], [3, 4]]])})
    assert TypeAdapter(list[prediction_type(TEXTS)]).validate_python(answers) == answers


def test_answers_are_objects_in_row_order():
    contract = Contract((), (Field("p", "float32"), Field("codes", "int64", (-1, 2))))
    answers = predictions({"p": np.float32([0.5, 0.25]), "codes": np.array([[1, 2], [3, 4]])})
    assert answers == [{"p": 0.5, "codes": [1, 2]}, {"p": 0.25, "codes": [3, 4]}]
    assert TypeAdapter(list[prediction_type(contract)]).validate_python(answers) == answers


TIED = Contract(
    (
        Field("grid", "float32", (-1, -1, -1), axes=("", "tokens")),
        Field("ids", "int64", (-1, -1), axes=("tokens",), max_length=3),
        Field("hour", "int64"),
    ),
    (),
)
TIED_ROW = {"grid": [[0.5, 1.0]], "ids": [1, 2], "hour": 7}


def test_lists_that_share_an_axis_are_equal_in_length():
    rows = TypeAdapter(list[row_type(TIED)])
    longer = {"grid": [[0.5, 1.0, 2.0], [1.0, 1.0, 1.0]], "ids": [1, 2, 3], "hour": 7}
    assert rows.validate_python([TIED_ROW, longer]) == [TIED_ROW, longer]
    with pytest.raises(ValidationError, match="differs from grid in length") as refused:
        rows.validate_python([TIED_ROW, {**TIED_ROW, "ids": [1]}])
    assert [error["loc"] for error in refused.value.errors()] == [(1, "ids")]


def test_lists_have_their_longest_length():
    rows = TypeAdapter(list[row_type(TIED)])
    assert rows.json_schema()["$defs"]["Row"]["properties"]["ids"]["maxItems"] == 3
    with pytest.raises(ValidationError, match="too_long") as refused:
        rows.validate_python([{**TIED_ROW, "ids": [1, 2, 3, 4]}])
    assert [error["loc"] for error in refused.value.errors()] == [(0, "ids")]


SAYINGS = Contract(
    (
        Field("ids", "int64", (-1, -1), minimum=0, axes=("tokens",)),
        Field("mask", "int64", (-1, -1), minimum=0, maximum=1, axes=("tokens",)),
        Field("hour", "int64"),
    ),
    (),
    Text("text", "tokenizer.json", 16, "ids", "mask"),
)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param({"text": "well met", "hour": 7}, id="the text"),
        pytest.param({"text": "", "hour": 7}, id="a text of no characters"),
        pytest.param({"ids": [1, 2], "mask": [1, 1], "hour": 7}, id="the tensors in its place"),
    ],
)
def test_a_row_has_the_text_or_the_tensors(row):
    rows = TypeAdapter(list[row_type(SAYINGS)])
    assert rows.validate_python([row]) == rows.validate_json(orjson.dumps([row])) == [row]


@pytest.mark.parametrize(
    ("row", "at", "kind"),
    [
        pytest.param({"text": 1, "hour": 7}, "text", "string_type", id="no string"),
        pytest.param({"text": "a", "hour": "b"}, "hour", "int_type", id="an input beside the text"),
        pytest.param({"text": "a", "hour": 7, "ids": [1]}, "ids", "extra_forbidden", id="a tensor as well"),
        pytest.param({"hour": 7}, "text", "missing", id="neither"),
        pytest.param({"ids": [1], "hour": 7}, "mask", "missing", id="one tensor of two"),
        pytest.param(
            {"ids": [1], "mask": [1, 1], "hour": 7}, "mask", "unequal_lengths", id="unequal tensors"
        ),
        pytest.param({"ids": [], "mask": [1], "hour": 7}, "ids", "too_short", id="an empty tensor"),
    ],
)
def test_a_bad_text_row_is_refused_in_one_place(row, at, kind):
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(list[row_type(SAYINGS)]).validate_json(orjson.dumps([{"text": "a", "hour": 7}, row]))
    assert [(error["loc"], error["type"]) for error in refused.value.errors()] == [((1, at), kind)]


def test_what_is_no_object_is_no_row_of_text():
    with pytest.raises(ValidationError, match="dict_type"):
        TypeAdapter(list[row_type(SAYINGS)]).validate_python([3])


def test_the_page_shows_both_kinds_of_row():
    schema = TypeAdapter(list[row_type(SAYINGS)]).json_schema()
    assert schema["items"]["anyOf"] == [{"$ref": "#/$defs/TextRow"}, {"$ref": "#/$defs/Row"}]
    assert set(schema["$defs"]["TextRow"]["required"]) == {"text", "hour"}
    assert set(schema["$defs"]["Row"]["required"]) == {"ids", "mask", "hour"}
