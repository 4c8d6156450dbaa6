"""Open Inference Protocol over HTTP: what tritonclient writes is read, what is written it reads, and whatever
else arrives is refused in a sentence that names the place."""

import json
import tomllib
from pathlib import Path

import numpy as np
import orjson
import pytest
import tritonclient.http as triton
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.http._utils import _get_inference_request

from bentos.contract import Contract, Field, Text
from bentos.errors import Invalid, Refusal, TooLarge
from bentos.inference import protocol
from bentos.inference.tensors import DTYPES, datatype
from bentos.manifest import Manifest
from tests.bentos.tiny import CONTRACT, ROW

KINDS = Contract(
    (
        *(Field(kind.lower(), dtype, (-1, 2)) for kind, dtype in DTYPES.items()),
        Field("tags", "int64", (-1, 2), categories=("é", "b"), open=True),
    ),
    (Field("logits", "float32", (-1, 3)), Field("label", "int64")),
)
WIDE = Contract((Field("x", "float32", (-1, 4)),), KINDS.outputs)
MAYBE = Contract((Field("x", "float32", nullable=True),), KINDS.outputs)
SAYINGS = Contract(
    (
        Field("ids", "int64", (-1, -1), axes=("tokens",)),
        Field("mask", "int64", (-1, -1), axes=("tokens",)),
        Field("hour", "int64"),
    ),
    KINDS.outputs,
    Text("text", "tokenizer.json", 16, "ids", "mask"),
)
OUTPUTS = {"logits": np.float32([[0.1, 2, 3], [4, 5, 6]]), "label": np.array([7, 8])}


def input_of(name, values, kind, binary=True):
    given = triton.InferInput(name, values.shape, kind)
    given.set_data_from_numpy(values, binary_data=binary)
    return given


def body_of(inputs, outputs=None, name="", parameters=None, timeout=None):
    """The body and the length of its JSON, as tritonclient sends them."""
    return _get_inference_request(inputs, name, outputs, 0, False, False, 0, timeout, parameters)


def tokenize(texts):
    """A token a letter."""
    for at, text in enumerate(texts):
        if not text:
            raise Invalid([at, "text"], "has no tokens")
    return [{"ids": list(map(ord, text)), "mask": [1] * len(text)} for text in texts]


def decoded(request, contract=WIDE, raw=b"", **changes):
    """A request as JSON, with `raw` behind it."""
    head = orjson.dumps({**request, **changes})
    return protocol.decode(head + raw, len(head) if raw else None, contract, tokenize, max_rows=100)


SENT = {
    "bool": np.array([[True, False]]),
    **{f"int{n}": np.array([[-(2 ** (n - 1)), 2 ** (n - 1) - 1]], f"int{n}") for n in (8, 16, 32, 64)},
    **{f"uint{n}": np.array([[0, 2**n - 1]], f"uint{n}") for n in (8, 16, 32, 64)},
    **{f"fp{n}": np.array([[0.1, -1e3]], f"float{n}") for n in (16, 32, 64)},
    "tags": np.array([["é".encode(), b""]], object),
}


@pytest.mark.parametrize("binary", [True, False], ids=["bytes", "JSON"])
def test_every_datatype_of_tritonclient_arrives_as_it_was(binary):
    inputs = [
        input_of(field.name, SENT[field.name], datatype(field), binary or field.dtype == "float16")
        for field in KINDS.inputs
    ]
    asked = protocol.decode(*body_of(inputs, name="a1"), KINDS, None)
    for field in KINDS.inputs:
        sent = np.array([[1, 0]]) if field.name == "tags" else SENT[field.name]
        np.testing.assert_array_equal(asked.feeds[field.name], sent)
        assert asked.feeds[field.name].dtype == field.dtype
    assert asked.id == "a1"


def test_aligned_bytes_are_not_copied():
    values = np.ones((32, 4), np.float32)
    head, length = body_of([input_of("x", values, "FP32")])
    padding = b" " * (-length % 16)
    body = head[:length] + padding + head[length:]
    feeds = protocol.decode(body, length + len(padding), WIDE, None).feeds
    assert np.shares_memory(feeds["x"], np.frombuffer(body, np.uint8))
    assert protocol.decode(head[:length] + b"   " + head[length:], length + 3, WIDE, None).feeds["x"].all()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param([1, 2.5, 3, 4, 5, 6, 7, 8], id="flat"),
        pytest.param([[1, 2.5, 3, 4], [5, 6, 7, 8]], id="nested"),
    ],
)
def test_json_may_be_flat_or_nested(data):
    given = {"name": "x", "shape": [2, 4], "datatype": "FP32", "data": data}
    np.testing.assert_array_equal(
        decoded({"inputs": [given]}).feeds["x"], np.float32([[1, 2.5, 3, 4], [5, 6, 7, 8]])
    )


@pytest.mark.parametrize(
    ("given", "raw"),
    [
        pytest.param({"data": [1.5, None]}, b"", id="null in JSON"),
        pytest.param({"parameters": {"binary_data_size": 8}}, np.float32([1.5, np.nan]).tobytes(), id="NaN"),
    ],
)
def test_what_is_missing_is_nan_where_it_may_be(given, raw):
    given = {"name": "x", "shape": [2], "datatype": "FP32", **given}
    np.testing.assert_array_equal(
        decoded({"inputs": [given]}, MAYBE, raw).feeds["x"], np.float32([1.5, np.nan])
    )
    with pytest.raises(Invalid, match=r"inputs\.x: is NaN in 1 of 2 rows"):
        decoded({"inputs": [given]}, Contract((Field("x", "float32"),), ()), raw)


@pytest.mark.parametrize("binary", [True, False], ids=["bytes", "JSON"])
def test_a_text_stands_for_its_tokens(binary):
    inputs = [
        input_of("text", np.array([b"ab", b"c"], object), "BYTES", binary),
        input_of("hour", np.array([7, 8]), "INT64", binary),
    ]
    feeds = protocol.decode(*body_of(inputs), SAYINGS, tokenize).feeds
    assert feeds["ids"].tolist() == [[97, 98], [99, 0]] and feeds["mask"].tolist() == [[1, 1], [1, 0]]
    assert feeds["hour"].tolist() == [7, 8]


def test_tokens_may_be_sent_for_the_text():
    inputs = [input_of(name, np.array([[5, 6]]), "INT64") for name in ("ids", "mask")]
    feeds = protocol.decode(*body_of([*inputs, input_of("hour", np.array([7]), "INT64")]), SAYINGS, tokenize)
    assert feeds.feeds["ids"].tolist() == [[5, 6]]


TENSOR = {"name": "x", "shape": [2, 4], "datatype": "FP32", "data": [0] * 8}
RAW = {"name": "x", "shape": [2, 4], "datatype": "FP32", "parameters": {"binary_data_size": 32}}
TEXTS = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["ab", "c"]}
HOURS = {"name": "hour", "shape": [2], "datatype": "INT64", "data": [7, 8]}
IDS, MASK = ({"name": n, "shape": [2, 1], "datatype": "INT64", "data": [1, 1]} for n in ("ids", "mask"))


def wrong(*inputs, **changed):
    return {"inputs": list(inputs) or [{**TENSOR, **changed}]}


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        pytest.param([], "must be a JSON object", id="no object"),
        pytest.param({}, "inputs: must be a list", id="no inputs"),
        pytest.param({"inputs": []}, r"inputs\.x: is missing", id="not one input"),
        pytest.param({"inputs": [3]}, r"inputs\.0: must be an object", id="an input that is a number"),
        pytest.param(wrong(name=3), r"inputs\.0\.name: must be a string", id="a name that is a number"),
        pytest.param(wrong(name="z" * 999), r"inputs\.z{80}: is not an input", id="an unknown input"),
        pytest.param(wrong(TENSOR, TENSOR), r"inputs\.x: is given twice", id="an input given twice"),
        pytest.param(wrong(datatype="FP64"), r"inputs\.x: must have the datatype FP32", id="datatype"),
        pytest.param(wrong(datatype=None), r"inputs\.0\.datatype: must be a string", id="no datatype"),
        pytest.param(wrong(shape="2"), r"inputs\.x\.shape: must be a list", id="a shape that is a string"),
        pytest.param(wrong(shape=[2, -4]), "none below 1", id="a negative size"),
        pytest.param(wrong(shape=[0, 4], data=[]), "none below 1", id="no rows"),
        pytest.param(wrong(shape=[2.0, 4]), "whole numbers", id="a size that is a fraction"),
        pytest.param(wrong(shape=[True, 4]), "whole numbers", id="a size that is true"),
        pytest.param(wrong(shape=[8]), r"must have the shape \[-1, 4\]", id="a wrong rank"),
        pytest.param(wrong(shape=[1] * 999), r"must have the shape \[-1, 4\]", id="a rank beyond NumPy's"),
        pytest.param(wrong(shape=[4, 2]), r"must have the shape \[-1, 4\]", id="a wrong shape"),
        pytest.param(wrong(shape=[3, 4]), "has 8 values where its shape needs 12", id="too few values"),
        pytest.param(wrong(data=[[0] * 4, [0] * 3]), "nested unlike its shape", id="ragged values"),
        pytest.param(wrong(data=[[0] * 4, 0]), "nested unlike its shape", id="half nested"),
        pytest.param(wrong(data=["1"] * 8), "values that are not FP32", id="strings for numbers"),
        pytest.param(wrong(data=[True] * 8), "values that are not FP32", id="booleans for numbers"),
        pytest.param(wrong(data=[1e39] * 8), "infinite", id="a number beyond FP32"),
        pytest.param(wrong(data=None), "either data or", id="no data"),
        pytest.param(wrong(data=3), r"inputs\.x\.data: must be a list", id="data that is a number"),
        pytest.param(wrong({**RAW, "data": [0] * 8}), "either data or", id="data twice"),
        pytest.param(wrong(RAW), "the body ends before", id="bytes that are not there"),
        pytest.param(wrong(parameters=3), r"inputs\.x\.parameters: must be an object", id="no parameters"),
        pytest.param(
            wrong({**RAW, "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 32}}),
            r"inputs\.x: is in shared memory, which is not supported", id="shared memory",
        ),
        pytest.param({**wrong(), "outputs": [{"name": "y"}]}, r"outputs\.y: is not an output", id="none"),
        pytest.param({**wrong(), "outputs": [{"name": "label"}] * 2}, "asked for twice", id="two of one"),
        pytest.param({**wrong(), "outputs": [{}]}, r"outputs\.0\.name: must be a string", id="no name"),
        pytest.param(
            {**wrong(), "outputs": [{"name": "label", "parameters": {"classification": 2}}]},
            r"outputs\.label: can't be answered as classes", id="classes",
        ),
        pytest.param({**wrong(), "id": 3}, "id: must be a string", id="an id that is a number"),
        pytest.param({**wrong(), "parameters": {"timeout": "1"}}, "microseconds", id="a timeout of text"),
    ],
)  # fmt: skip
def test_refusals_name_the_place(request_, reason):
    with pytest.raises(Invalid, match=reason):
        protocol.decode(orjson.dumps(request_), None, WIDE, None)


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        pytest.param([TEXTS], r"inputs\.hour: is missing", id="an input missing"),
        pytest.param([TEXTS, {**HOURS, "shape": [1]}], "another number of rows", id="rows that differ"),
        pytest.param([TEXTS, HOURS, IDS], r"inputs\.ids: comes from text", id="the text and its tokens"),
        pytest.param([IDS, HOURS], r"inputs\.mask: is missing", id="half the tokens"),
        pytest.param(
            [IDS, {**MASK, "shape": [2, 2], "data": [1] * 4}, HOURS], r"inputs\.mask: differs from ids",
            id="tokens of unequal length",
        ),
        pytest.param([{**TEXTS, "data": ["ab", ""]}, HOURS], r"inputs\.text\.1: has no tokens", id="nothing"),
        pytest.param([{**TEXTS, "shape": [2, 1]}, HOURS], r"must have the shape \[-1\]", id="a text's shape"),
        pytest.param([{**TEXTS, "datatype": "INT64"}], "datatype BYTES", id="a text's datatype"),
        pytest.param([{**HOURS, "data": [1, 2**63]}], "a number beyond INT64", id="a huge number"),
        pytest.param([{**HOURS, "data": [1, 2**70]}], "not INT64", id="a number beyond 64 bits"),
        pytest.param([{**HOURS, "data": [1, 1.5]}], "not INT64", id="a fraction"),
    ],
)  # fmt: skip
def test_refusals_of_texts_name_the_place(inputs, reason):
    with pytest.raises(Invalid, match=reason):
        protocol.decode(json.dumps({"inputs": inputs}).encode(), None, SAYINGS, tokenize)


def framed(*strings):
    return b"".join(len(string).to_bytes(4, "little") + string for string in strings)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param(framed(b"ab"), "too few for 2 strings", id="a string missing"),
        pytest.param(framed(b"ab", b"c")[:-1], "longer than its bytes", id="cut off"),
        pytest.param(b"\xff" * 12, "longer than its bytes", id="a length of gigabytes"),
        pytest.param(framed(b"ab", b"c", b"d"), "5 bytes after its 2 strings", id="a string too many"),
        pytest.param(framed(b"ab", b"\xc3"), "not UTF-8", id="no UTF-8"),
        pytest.param(b"", "too few for 2 strings", id="no bytes"),
    ],
)
def test_bytes_that_are_no_strings_are_refused(raw, reason):
    given = {"name": "text", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    with pytest.raises(Invalid, match=rf"inputs\.text: .*({reason})"):
        decoded({"inputs": [given]}, SAYINGS, raw)


@pytest.mark.parametrize(
    ("raw", "size", "reason"),
    [
        pytest.param(bytes(31), 31, "has 31 bytes where its shape needs 32", id="too few"),
        pytest.param(bytes(33), 32, "1 bytes that belong to no input", id="too many"),
        pytest.param(bytes(32), 33, "the body ends before", id="a size beyond the body"),
        pytest.param(bytes(32), 2**63, "the body ends before", id="a huge size"),
        pytest.param(bytes(32), -1, "a whole number of bytes", id="a negative size"),
        pytest.param(bytes(32), "32", "a whole number of bytes", id="a size that is a string"),
        pytest.param(np.full(8, np.inf, "f4").tobytes(), 32, r"inputs\.x: is infinite", id="infinity"),
    ],
)
def test_wrong_bytes_are_refused(raw, size, reason):
    with pytest.raises(Invalid, match=reason):
        decoded({"inputs": [{**RAW, "parameters": {"binary_data_size": size}}]}, raw=raw)


def test_booleans_are_0_or_1():
    given = {"name": "x", "shape": [2], "datatype": "BOOL", "parameters": {"binary_data_size": 2}}
    with pytest.raises(Invalid, match="other than 0 and 1"):
        decoded({"inputs": [given]}, Contract((Field("x", "bool"),), ()), b"\x01\x02")


def test_half_floats_are_sent_as_bytes():
    given = {"name": "x", "shape": [1], "datatype": "FP16", "data": [1.0]}
    with pytest.raises(Invalid, match="raw bytes only"):
        decoded({"inputs": [given]}, Contract((Field("x", "float16"),), ()))


def test_rows_beyond_the_limit_are_not_looked_at():
    given = {"name": "text", "shape": [101], "datatype": "BYTES", "data": []}
    with pytest.raises(TooLarge, match="101 is over the limit of 100"):
        decoded({"inputs": [given]}, SAYINGS)


@pytest.mark.parametrize("length", [-1, 3, 10**9], ids=["negative", "too short", "beyond the body"])
def test_a_wrong_header_length_is_refused(length):
    with pytest.raises(Invalid):
        protocol.decode(orjson.dumps(wrong()), length, WIDE, None)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b'{"inputs": [', id="cut off"),
        pytest.param(b'{"inputs": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", id="too deep"),
        pytest.param(b'{"inputs": [NaN]}', id="NaN"),
        pytest.param(b'{"inputs": [Infinity]}', id="Infinity"),
        pytest.param(b'{"id": "\xff"}', id="no UTF-8"),
        pytest.param(b'{"id": "\\ud800"}', id="half a surrogate pair"),
    ],
)
def test_malformed_json_is_refused(body):
    with pytest.raises(Invalid, match="not valid JSON"):
        protocol.decode(body, None, WIDE, None)


def test_parameters_that_mean_nothing_here_are_ignored():
    parameters = {"sequence_id": 3, "sequence_start": True, "priority": 2, "mine": [1], "timeout": 1_500_000}
    assert decoded(wrong(), parameters=parameters).timeout_seconds == 1.5
    assert decoded(wrong(), parameters={"timeout": 0}).timeout_seconds is None


@pytest.mark.parametrize(
    ("outputs", "parameters", "wanted"),
    [
        pytest.param(None, {}, {"logits": False, "label": False}, id="all, as JSON"),
        pytest.param(None, {"binary_data_output": True}, {"logits": True, "label": True}, id="all, as bytes"),
        pytest.param([{"name": "label"}], {}, {"label": False}, id="one"),
        pytest.param([{"name": "label"}], {"binary_data_output": True}, {"label": True}, id="one, as bytes"),
        pytest.param(
            [{"name": "label"}, {"name": "logits", "parameters": {"binary_data": True}}], {},
            {"label": False, "logits": True}, id="either",
        ),
    ],
)  # fmt: skip
def test_outputs_are_those_asked_for(outputs, parameters, wanted):
    asked = decoded(wrong(), outputs=outputs, parameters=parameters)
    assert asked.outputs == wanted and list(asked.outputs) == list(wanted)


@pytest.mark.parametrize("logits", [True, False], ids=["logits as bytes", "logits as JSON"])
@pytest.mark.parametrize("label", [True, False], ids=["label as bytes", "label as JSON"])
def test_tritonclient_reads_the_answer(logits, label):
    wanted = [triton.InferRequestedOutput("label", label), triton.InferRequestedOutput("logits", logits)]
    body = body_of([input_of("x", np.ones((2, 4), np.float32), "FP32")], wanted, "a1")
    chunks, length = protocol.encode(protocol.decode(*body, WIDE, None), OUTPUTS, "tiny", "3")
    answer = triton.InferResult.from_response_body(b"".join(chunks), header_length=length)
    assert (length is None) == (not logits and not label)
    assert {key: answer.get_response()[key] for key in ("id", "model_name", "model_version")} == {
        "id": "a1", "model_name": "tiny", "model_version": "3"
    }  # fmt: skip
    for name, values in OUTPUTS.items():
        found = answer.as_numpy(name)
        np.testing.assert_array_equal(found, values)
        assert found.dtype == values.dtype


def test_an_answer_has_no_more_than_was_asked_for():
    (body,), length = protocol.encode(decoded(wrong(), outputs=[{"name": "label"}]), OUTPUTS, "tiny", "3")
    assert length is None and orjson.loads(body) == {
        "model_name": "tiny",
        "model_version": "3",
        "outputs": [{"name": "label", "datatype": "INT64", "shape": [2], "data": [7, 8]}],
    }


def test_raw_outputs_are_not_copied():
    asked = decoded(wrong(), outputs=[{"name": "logits", "parameters": {"binary_data": True}}])
    (_, chunk), _ = protocol.encode(asked, OUTPUTS, "tiny", "3")
    assert np.shares_memory(np.frombuffer(chunk, np.uint8), OUTPUTS["logits"])


def test_metadata_says_what_is_taken():
    manifest = Manifest("tiny", "3", "v3-0a1b2c", "fp32", "", CONTRACT)
    described = protocol.metadata(manifest)
    assert described["name"] == "tiny" and described["versions"] == ["3"]
    assert [(tensor["name"], tensor["datatype"], tensor["shape"]) for tensor in described["inputs"]] == [
        ("carrier", "BYTES", [-1]),
        ("origin", "BYTES", [-1]),
        ("hour", "INT32", [-1]),
        ("dep delay", "FP32", [-1]),
        ("wind", "FP32", [-1]),
    ]
    assert described["outputs"] == [{"name": "probability", "datatype": "FP32", "shape": [-1]}]


def test_metadata_shows_the_text_for_its_tokens():
    described = protocol.metadata(Manifest("tiny", "3", "v3-0a1b2c", "fp32", "", SAYINGS))
    assert [tensor["name"] for tensor in described["inputs"]] == ["text", "hour"]


def test_the_server_says_its_version():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    said = protocol.server_metadata()
    assert (said["name"], said["version"]) == (project["name"], project["version"])


def tiny_body():
    inputs = []
    for field in CONTRACT.inputs:
        value = ROW[field.name]
        values = [np.nan] if value is None else [value.encode()] if field.categories else [value]
        dtype = object if field.categories else field.dtype
        inputs.append(input_of(field.name, np.array(values, dtype), datatype(field)))
    return body_of(inputs)


def answered_or_refused(body, length, contract=CONTRACT):
    try:
        asked = protocol.decode(body, length, contract, tokenize)
    except Refusal as refusal:
        assert str(refusal)
        return
    assert asked.feeds.keys() == {field.name for field in contract.inputs}


@settings(max_examples=500)
@given(st.data())
def test_no_bytes_raise_anything_but_refusals(data):
    body, length = tiny_body()
    body = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body)))
        until = data.draw(st.integers(at, min(len(body), at + 8)))
        body[at:until] = data.draw(st.binary(max_size=8))
    answered_or_refused(bytes(body), data.draw(st.none() | st.just(length) | st.integers(-1, len(body) + 1)))


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
sizes = st.lists(st.integers(-1, 3) | st.just(2**62) | anything, max_size=3)
tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["ids", "mask", "hour", "text"]) | anything,
        "datatype": st.sampled_from(["INT64", "BYTES"]) | anything,
        "shape": sizes | anything,
    },
    optional={
        "data": st.lists(st.integers(-2, 2) | st.text(max_size=3) | anything, max_size=4) | anything,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 20) | anything}) | anything,
    },
)
requests = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=4) | anything},
    optional={
        "id": anything,
        "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(["label"]) | anything}))
        | anything,
        "parameters": anything,
    },
)


@settings(max_examples=500)
@given(requests, st.none() | st.binary(max_size=40))
def test_no_json_raises_anything_but_refusals(request_, raw):
    head = json.dumps(request_).encode()
    answered_or_refused(head + (raw or b""), None if raw is None else len(head), SAYINGS)
