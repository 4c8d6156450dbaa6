"""The Open Inference Protocol as Protobuf messages: requests read, answers written.

The messages are those of tritonclient, so that its clients and we speak of the same.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from bentos.contract import MAX_SHOWN
from bentos.errors import Invalid, NotFound
from bentos.inference.asked import Asked, Tokenize, asked, refuse_parameters
from bentos.inference.tensors import DATATYPES, Sent
from bentos.manifest import Manifest

messages: Any = service_pb2  # its classes are made when it is imported, out of sight of type checkers

CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    **{name: f"{name.lower()}_contents" for name in ("INT64", "UINT64", "FP32", "FP64", "BYTES")},
}
"""Where a tensor's values are that are not sent as raw bytes."""


def read(body: bytes, manifest: Manifest, tokenize: Tokenize | None) -> Asked:
    """What a ModelInferRequest asks. Raises Invalid, which names the input, NotFound and TooLarge."""
    try:
        request = messages.ModelInferRequest.FromString(body)
    except DecodeError as error:
        raise Invalid([], "the message is no ModelInferRequest") from error
    check_model(manifest, request.model_name, request.model_version)
    raw = request.raw_input_contents or [None] * len(request.inputs)
    if len(raw) != len(request.inputs):
        raise Invalid(["raw_input_contents"], f"has {len(raw)} entries for {len(request.inputs)} inputs")
    sent = map(_sent, request.inputs, raw)
    outputs = [(output.name, _parameters(output)) for output in request.outputs]
    max_rows, parameters = manifest.plan.max_request_rows, _parameters(request)
    return asked(manifest.contract, tokenize, max_rows, sent, outputs, parameters, request.id)


def check_model(manifest: Manifest, name: str, version: str) -> None:
    """Raises NotFound for another model or version. An empty version is any."""
    if name != manifest.model or version not in ("", manifest.version):
        raise NotFound("there is no such model or version here")


def written(request: Asked, outputs: Mapping[str, np.ndarray], manifest: Manifest) -> Any:
    """The ModelInferResponse, its tensors as raw bytes."""
    found = [(name, outputs[name]) for name in request.outputs]
    return messages.ModelInferResponse(
        model_name=manifest.model,
        model_version=manifest.version,
        id=request.id,
        outputs=[
            {"name": name, "datatype": DATATYPES[values.dtype.name], "shape": values.shape}
            for name, values in found
        ],
        raw_output_contents=[values.tobytes() for _, values in found],
    )


def _sent(tensor: Any, raw: bytes | None) -> Sent:
    sent = Sent(tensor.name, tensor.datatype, tuple(tensor.shape), raw)
    refuse_parameters(["inputs", tensor.name[:MAX_SHOWN]], tensor.parameters)
    if raw is None:
        kind = CONTENTS.get(tensor.datatype)
        sent.values = list(getattr(tensor.contents, kind)) if kind else []
    elif tensor.HasField("contents"):
        raise sent.invalid("is given twice, as contents and as raw bytes")
    return sent


def _parameters(message: Any) -> dict[str, Any]:
    found = {}
    for name, value in message.parameters.items():
        if kind := value.WhichOneof("parameter_choice"):
            found[name] = getattr(value, kind)
    return found
