"""The requests of a load test: real rows, each as the bytes that a client would send."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import orjson

from bentos.contract import Contract, Field
from bentos.inference.tensors import datatype
from pipelines.core.errors import ContractBroken
from pipelines.core.texts import STRING, given_fields

WireName = Literal["json", "binary", "grpc"]
Headers = tuple[tuple[str, str], ...]
Row = Mapping[str, Any]
Tensor = tuple[str, str, list[int], bytes]
"""Name, datatype, shape and raw bytes."""
GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"
JSON_TYPE, BINARY_TYPE = (("content-type", f"application/{kind}") for kind in ("json", "octet-stream"))


@dataclass(frozen=True)
class Payloads:
    """What is sent in turn to a path of the service; `headers` are those of each body, beside its length."""

    wire: WireName
    path: str
    bodies: Sequence[bytes]
    headers: Sequence[Headers]


def payloads(wire: WireName, model_name: str, contract: Contract, rows: Sequence[Row]) -> Payloads:
    """One request for each of the rows, which are those of `to_records`.

    json     POST /predict
    binary   the Open Inference Protocol over HTTP, tensors as raw bytes behind the JSON, the answer's as well
    grpc     its ModelInfer, tensors as raw bytes

    Raises ContractBroken for a row that can't be a tensor of the contract.
    """
    if wire == "json":
        bodies = [orjson.dumps({"rows": [row]}) for row in rows]
        return Payloads(wire, "/predict", bodies, [(JSON_TYPE,)] * len(bodies))
    tensors = [_tensors(contract, row) for row in rows]
    if wire == "grpc":
        return Payloads(wire, GRPC_PATH, _messages(model_name, tensors), [()] * len(tensors))
    made = [_binary(each) for each in tensors]
    headers = [headers for _, headers in made]
    return Payloads(wire, f"/v2/models/{model_name}/infer", [body for body, _ in made], headers)


def _binary(tensors: Sequence[Tensor]) -> tuple[bytes, Headers]:
    inputs = [
        {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
        for name, kind, shape, raw in tensors
    ]
    header = orjson.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}})
    headers = (BINARY_TYPE, ("inference-header-content-length", str(len(header))))
    return b"".join([header, *(raw for *_, raw in tensors)]), headers


def _messages(model_name: str, requests: Iterable[Sequence[Tensor]]) -> list[bytes]:
    from bentos.inference.protobuf import messages

    return [
        messages.ModelInferRequest(
            model_name=model_name,
            inputs=[{"name": name, "datatype": kind, "shape": shape} for name, kind, shape, _ in tensors],
            raw_input_contents=[raw for *_, raw in tensors],
        ).SerializeToString()
        for tensors in requests
    ]


def _tensors(contract: Contract, row: Row) -> list[Tensor]:
    return [_tensor(field, row[field.name]) for field in given_fields(contract, row)]


def _tensor(field: Field, value: Any) -> Tensor:
    """Strings are sent as they are, whether categories or texts: the service encodes them."""
    strings = field.categories is not None or field.dtype == STRING
    try:
        array = np.array([value], object if strings else field.dtype)
        raw = b"".join(map(_string, array.ravel())) if strings else array.tobytes()
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        subject = "A row of the load test"
        raise ContractBroken(subject, f"{field.name}: {error}", "correct the row") from error
    return field.name, "BYTES" if strings else datatype(field), list(array.shape), raw


def _string(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<I", len(encoded)) + encoded
