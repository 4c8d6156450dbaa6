"""An ONNX file: made self-contained, checked, and held against the contract."""

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from bentos.contract import Contract, Field
from bentos.engines.engine import Engine, runtime_errors
from pipelines.core.refusals import first_line, refused

if TYPE_CHECKING:
    from onnx import TensorProto, ValueInfoProto

MOST_WEIGHT_BYTES = 2**31 - 2**25
"""Protocol Buffers, and so an ONNX file, end at 2 GiB; 32 MiB are left to the graph."""

MAKE_DYNAMIC = (
    "export it again from an example of two rows or more, with that dimension dynamic (dynamic_shapes of "
    "torch.export.export and torch.onnx.export)"
)


def copy_self_contained(source: Path, target: Path) -> None:
    """Copy a file without external data byte for byte, else write one file with all of it.

    Raises ModelRefused for what is no ONNX file, or lacks its external data, or is too large for one file.
    """
    import onnx

    try:
        bare = onnx.load(source, load_external_data=False)
        refuse_weight(source, sum(map(_size_bytes, bare.graph.initializer)))
        whole = onnx.load(source)
    except (*_onnx_errors(), OSError) as error:
        mend = "log it again with mlflow.onnx.log_model"
        raise refused(source, f"ONNX can't read it ({first_line(error)})", mend) from error
    if whole == bare:
        shutil.copyfile(source, target)
    else:
        onnx.save(whole, target)


def refuse_weight(source: Path, weight_bytes: int) -> None:
    """Raises ModelRefused for weights that one ONNX file can't hold."""
    if weight_bytes > MOST_WEIGHT_BYTES:
        reason = f"its weights are {weight_bytes / 2**30:.2f} GiB, and one ONNX file ends at 2 GiB"
        raise refused(source, reason, "register a smaller model, or one with float16 weights")


def check_onnx(path: Path) -> None:
    """The full check of ONNX: structure, types and shapes."""
    import onnx

    onnx.checker.check_model(str(path), full_check=True)


def refuse_other(source: Path, file: Path, contract: Contract) -> None:
    """Raises ModelRefused unless `file`, made of `source`, is valid, the contract's, and can be loaded."""
    try:
        check_onnx(file)
        _refuse_other_signature(source, file, contract)
        Engine(file, contract)
    except _onnx_errors() as error:
        reason, mend = "ONNX's full check fails", "correct the model and log it again"
        raise refused(source, f"{reason} ({first_line(error)})", mend) from error
    except runtime_errors() as error:
        reason, mend = "ONNX Runtime can't load it", "use operators and an opset that this ONNX Runtime knows"
        raise refused(source, f"{reason} ({first_line(error)})", mend) from error


def _onnx_errors() -> tuple[type[Exception], ...]:
    from google.protobuf.message import DecodeError
    from onnx import checker, shape_inference

    return DecodeError, checker.ValidationError, shape_inference.InferenceError


def _size_bytes(tensor: "TensorProto") -> int:
    from onnx.helper import tensor_dtype_to_np_dtype

    return math.prod(tensor.dims) * tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _refuse_other_signature(source: Path, file: Path, contract: Contract) -> None:
    import onnx

    graph = onnx.load(file).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value for value in graph.input if value.name not in weights}
    outputs = {value.name: value for value in graph.output}
    for kind, values, fields in ("input", inputs, contract.inputs), ("output", outputs, contract.outputs):
        names = {field.name for field in fields}
        if names != values.keys():
            reason = f"its {kind}s are {_listed(values)} where its signature has {_listed(names)}"
            raise refused(source, reason, "rename either and log it again")
        for field in fields:
            _refuse_other_tensor(source, kind, values[field.name], field)


def _refuse_other_tensor(source: Path, kind: str, value: "ValueInfoProto", field: Field) -> None:
    dtype, dims = _described(value)
    alike = dtype == field.dtype and len(dims) == len(field.shape)
    pairs = list(enumerate(zip(dims, field.shape, strict=False)))
    # What comes out may be narrower than the signature says, but for the batch.
    fixed = any(wanted == -1 != found and (kind == "input" or at == 0) for at, (found, wanted) in pairs)
    if alike and not fixed and all(-1 in (found, wanted) or found == wanted for _, (found, wanted) in pairs):
        return
    reason = f"its {kind} {field.name} is {dtype}{list(dims)} where its signature says {field.dtype}"
    mend = MAKE_DYNAMIC if alike and fixed else "correct the model or its signature and log it again"
    raise refused(source, f"{reason}{list(field.shape)}", mend)


def _described(value: "ValueInfoProto") -> tuple[str, tuple[int, ...]]:
    """dtype and shape, -1 for any length; a sequence or a map has neither."""
    from onnx.helper import tensor_dtype_to_np_dtype

    if not value.type.HasField("tensor_type"):
        return str(value.type.WhichOneof("value")).removesuffix("_type"), ()
    tensor = value.type.tensor_type
    dims = (dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    return tensor_dtype_to_np_dtype(tensor.elem_type).name, tuple(dims)


def _listed(names) -> str:
    return ", ".join(sorted(names))
