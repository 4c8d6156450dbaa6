"""Rows as the bytes of requests: what the service reads out of them is what was put in."""

import numpy as np
import orjson
import pandas as pd
import pytest

from bentos.contract import Contract, Field, Text, encode
from bentos.inference import protobuf, protocol
from bentos.manifest import Manifest
from pipelines.core.errors import ContractBroken
from pipelines.core.rows import to_records
from pipelines.gateways.payloads import Payloads, WireName, payloads
from tests.bentos.tiny import CONTRACT, ROW

ROWS = [ROW, {**ROW, "carrier": "B6", "origin": "Ürümqi", "hour": 23, "wind": 4.25}]
SHAPES = Contract(
    (
        Field("ids", "int64", (-1, -1)),
        Field("grid", "float16", (-1, 2, 2)),
        Field("flag", "bool"),
        Field("kinds", "int64", (-1, 2), categories=("a", "b"), open=True),
    ),
    (Field("y", "float32"),),
)
TEXT = Contract(
    (Field("ids", "int64", (-1, -1)), Field("age", "int32")),
    (Field("y", "float32"),),
    Text("words", "tokenizer.json", 8, "ids"),
)


def read(given: Payloads, contract: Contract, number: int) -> dict[str, np.ndarray]:
    """The tensors that the service makes of a body."""
    body, headers = given.bodies[number], dict(given.headers[number])
    if given.wire == "grpc":
        return dict(protobuf.read(body, Manifest("m", "1", "v1", "fp32", "", contract), None).feeds)
    return dict(protocol.decode(body, int(headers["inference-header-content-length"]), contract, None).feeds)


def test_json_is_what_predict_takes():
    given = payloads("json", "m", CONTRACT, ROWS)
    assert (given.wire, given.path) == ("json", "/predict")
    assert [orjson.loads(body) for body in given.bodies] == [{"rows": [row]} for row in ROWS]
    assert list(given.headers) == [(("content-type", "application/json"),)] * 2


@pytest.mark.parametrize(
    ("wire", "path"),
    [("binary", "/v2/models/m/infer"), ("grpc", "/inference.GRPCInferenceService/ModelInfer")],
)
def test_the_service_reads_the_same_tensors_out_of_bytes(wire: WireName, path):
    given = payloads(wire, "m", CONTRACT, ROWS)
    assert (given.wire, given.path, len(given.headers)) == (wire, path, 2)
    for number, row in enumerate(ROWS):
        columns = {name: np.array([np.nan if value is None else value]) for name, value in row.items()}
        expected = encode(CONTRACT, columns)
        for name, values in read(given, CONTRACT, number).items():
            np.testing.assert_array_equal(values, expected[name])


@pytest.mark.parametrize("wire", ["binary", "grpc"])
def test_tensors_of_every_shape(wire: WireName):
    row = {"ids": [1, 2, 3], "grid": [[0.5, 1], [2, 3]], "flag": True, "kinds": ["b", "other"]}
    found = read(payloads(wire, "m", SHAPES, [row]), SHAPES, 0)
    assert found["ids"].tolist() == [[1, 2, 3]] and found["flag"].tolist() == [True]
    assert found["grid"].tolist() == [row["grid"]] and found["grid"].dtype == np.float16
    assert found["kinds"].tolist() == [[2, 0]]


def test_a_text_goes_in_place_of_its_tokens():
    given = payloads("binary", "m", TEXT, [{"words": "två ord", "age": 7}])
    body, headers = given.bodies[0], dict(given.headers[0])
    header = orjson.loads(body[: int(headers["inference-header-content-length"])])
    assert [(tensor["name"], tensor["datatype"]) for tensor in header["inputs"]] == [
        ("words", "BYTES"),
        ("age", "INT32"),
    ]
    assert "två ord".encode() in body


def test_rows_of_parquet_are_rows_of_requests():
    frame = pd.DataFrame(ROWS).astype({"hour": "int32", "wind": "float32"})
    given = payloads("binary", "m", CONTRACT, to_records(CONTRACT, frame))
    assert read(given, CONTRACT, 1)["wind"].tolist() == [4.25]
    assert np.isnan(read(given, CONTRACT, 0)["wind"]).all()


@pytest.mark.parametrize("value", [None, "seven", 2**40])
def test_a_row_that_is_no_tensor_is_named(value):
    with pytest.raises(ContractBroken, match="hour"):
        payloads("binary", "m", CONTRACT, [{**ROW, "hour": value}])
