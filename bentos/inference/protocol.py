"""The Open Inference Protocol, version 2, over HTTP: requests read, answers and metadata written.

JSON, with the tensors in it or as raw bytes behind it: Triton's binary tensor data extension, where the
header Inference-Header-Content-Length says how long the JSON is.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from bentos.contract import MAX_SHOWN, Contract, Field
from bentos.errors import Invalid
from bentos.inference.asked import Asked, Tokenize, asked, refuse_parameters
from bentos.inference.tensors import DATATYPES, Sent, datatype
from bentos.manifest import Manifest

SERVER = {"name": "seatrial", "version": "0.1.0", "extensions": ["binary_tensor_data"]}
PLATFORM = "onnxruntime_onnx"
JSON_NAMES = {str: "a string", list: "a list", dict: "an object"}


def decode(
    body: bytes,
    header_length: int | None,
    contract: Contract,
    tokenize: Tokenize | None,
    max_rows: int | None = None,
) -> Asked:
    """What the body of POST …/infer asks. Raises Invalid, which names the input, and TooLarge."""
    request, raw = _parsed(body, header_length)
    parameters = _member(request, "parameters", dict, {})
    inputs = [_sent(at, given) for at, given in enumerate(_member(request, "inputs", list))]
    _hand_out(raw, inputs)
    outputs = [_output(at, given) for at, given in enumerate(_member(request, "outputs", list, []))]
    sent = [tensor for tensor, _ in inputs]
    name = _member(request, "id", str, "")
    return asked(contract, tokenize, max_rows, sent, outputs, parameters, name)


def encode(
    request: Asked, outputs: Mapping[str, np.ndarray], model: str, version: str
) -> tuple[list[bytes | memoryview], int | None]:
    """The body of the answer, and how long its JSON is if raw tensors follow. Large arrays are not copied."""
    described, raw = [], []
    for name, binary in request.outputs.items():
        values = np.ascontiguousarray(outputs[name])
        tensor = {"name": name, "datatype": DATATYPES[values.dtype.name], "shape": values.shape}
        if binary:
            tensor["parameters"] = {"binary_data_size": values.nbytes}
            raw.append(values.reshape(-1).view(np.uint8).data)
        else:
            tensor["data"] = values.reshape(-1)
        described.append(tensor)
    echo = {"id": request.id} if request.id else {}
    answer = {"model_name": model, "model_version": version, **echo, "outputs": described}
    header = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return [header, *raw], len(header) if raw else None


def server_metadata() -> dict[str, Any]:
    """The answer to GET /v2."""
    return SERVER


def metadata(manifest: Manifest) -> dict[str, Any]:
    """The answer to GET /v2/models/MODEL. A text stands in the place of the inputs that come from it."""
    text, inputs = manifest.contract.text, [_described(field) for field in manifest.contract.inputs]
    if text is not None:
        others = [tensor for tensor in inputs if tensor["name"] not in text.inputs]
        inputs = [{"name": text.name, "datatype": "BYTES", "shape": [-1]}, *others]
    return {
        "name": manifest.model,
        "versions": [manifest.version],
        "platform": PLATFORM,
        "inputs": inputs,
        "outputs": [_described(field) for field in manifest.contract.outputs],
    }


def _described(field: Field) -> dict[str, Any]:
    return {"name": field.name, "datatype": datatype(field), "shape": list(field.shape)}


def _parsed(body: bytes, header_length: int | None) -> tuple[dict[str, Any], memoryview]:
    """The JSON object, and the bytes behind it."""
    whole = memoryview(body)
    end = len(body) if header_length is None else header_length
    if not 0 <= end <= len(body):
        raise Invalid([], f"Inference-Header-Content-Length is {end}, the body has {len(body)} bytes")
    try:
        request = orjson.loads(whole[:end])
    except orjson.JSONDecodeError as error:
        raise Invalid([], "the body is not valid JSON") from error
    if not isinstance(request, dict):
        raise Invalid([], "the body must be a JSON object")
    return request, whole[end:]


def _member(of: dict, key: str, kind: type, default: Any = None, where: Sequence[str | int] = ()) -> Any:
    """A value of an object; null is as good as none at all."""
    value = of.get(key)
    value = default if value is None else value
    if type(value) is not kind:
        raise Invalid([*where, key], f"must be {JSON_NAMES[kind]}")
    return value


def _object(where: Sequence[str | int], given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise Invalid(where, "must be an object")
    return given


def _sent(at: int, given: Any) -> tuple[Sent, int | None]:
    """One input, and how many of the bytes behind the JSON are its own."""
    where = ["inputs", at]
    given = _object(where, given)
    name, kind = (_member(given, key, str, where=where) for key in ("name", "datatype"))
    where = ["inputs", name[:MAX_SHOWN]]
    shape = _member(given, "shape", list, where=where)
    parameters = _member(given, "parameters", dict, {}, where)
    refuse_parameters(where, parameters)
    size = parameters.get("binary_data_size")
    if (size is None) == (given.get("data") is None):
        raise Invalid(where, "must have either data or the parameter binary_data_size")
    if size is None:
        return Sent(name, kind, shape, values=_member(given, "data", list, where=where)), None
    if type(size) is not int or size < 0:
        raise Invalid(where, "must have a whole number of bytes as binary_data_size")
    return Sent(name, kind, shape), size


def _hand_out(raw: memoryview, inputs: Iterable[tuple[Sent, int | None]]) -> None:
    """Gives each input its share of the bytes, in order."""
    at = 0
    for tensor, size in inputs:
        if size is not None:
            tensor.raw, at = raw[at : at + size], at + size
            if at > len(raw):
                raise tensor.invalid(f"has {size} bytes, but the body ends before")
    if at != len(raw):
        raise Invalid([], f"the body has {len(raw) - at} bytes that belong to no input")


def _output(at: int, given: Any) -> tuple[str, dict[str, Any]]:
    where = ["outputs", at]
    given = _object(where, given)
    return _member(given, "name", str, where=where), _member(given, "parameters", dict, {}, where)
