"""The tools that the rungs share: a file made ready to be rewritten, and calibration as a stream."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pipelines.core.errors import RungImpossible
from pipelines.core.evaluate import Tensors, row_count

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

QUANTIZED_OPS = ["MatMul", "Gemm", "Conv"]
"""Only where the arithmetic is; quantizing every operator ruins encoders (cosine .30 on MiniLM)."""

PER_CHANNEL_OPSET = 13
"""Older opsets can't say that each channel of a weight has its own scale."""


@contextmanager
def prepared(source: Path, target: Path) -> Iterator[Path]:
    """A copy of `source` in a folder beside `target`; both are gone afterwards.

    Its shapes are fresh, as the quantizers fail on those that an exporter left behind; constants are folded,
    so that weights are initializers; every node has a name of its own; the opset is at least 13; no Gemm has
    a factor beside its weights.
    """
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with TemporaryDirectory(dir=target.parent) as folder:
        cleared, ready = Path(folder) / "cleared.onnx", Path(folder) / "prepared.onnx"
        onnx.save(_cleared(onnx.load(source)), cleared)
        quant_pre_process(cleared, ready, skip_symbolic_shape=True)
        model = onnx.load(ready)
        _name_nodes(model.graph)
        _fold_factors(model.graph)
        onnx.save(model, ready)
        yield ready


def _cleared(model: "ModelProto") -> "ModelProto":
    from onnx.version_converter import convert_version

    del model.graph.value_info[:]
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return model if opset >= PER_CHANNEL_OPSET else convert_version(model, PER_CHANNEL_OPSET)


def _name_nodes(graph: "GraphProto") -> None:
    taken = set()
    for at, node in enumerate(graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.name or node.op_type}.{at}"
        taken.add(node.name)


def _fold_factors(graph: "GraphProto") -> None:
    """Multiply alpha and beta of each Gemm into its constants: quantize_static loses beta on the way."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Gemm"]:
        for factor in [attribute for attribute in node.attribute if attribute.name in ("alpha", "beta")]:
            at = 1 if factor.name == "alpha" else 2
            if factor.f != 1 and len(node.input) > at and node.input[at] in constants:
                values = numpy_helper.to_array(constants[node.input[at]])
                name = f"{node.name}.{factor.name}"
                graph.initializer.append(numpy_helper.from_array(values * values.dtype.type(factor.f), name))
                node.input[at], factor.f = name, 1.0


def weighted_nodes(model: Path, rung: str) -> list[str]:
    """Names of a prepared file's products with constant float32 weights. Raises RungImpossible for none."""
    import onnx

    graph = onnx.load(model).graph
    weights = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    nodes = [
        node.name for node in graph.node if node.op_type in QUANTIZED_OPS and weights & {*node.input[1:2]}
    ]
    if not nodes:
        raise RungImpossible(
            rung,
            f"no {', '.join(QUANTIZED_OPS[:-1])} or {QUANTIZED_OPS[-1]} in it has constant float32 weights",
            "leave the rung out of gate.rungs",
        )
    return nodes


def calibration_reader(batches: Iterable[Tensors]):
    """The batches as ONNX Runtime's calibrator reads them: one at a time; `rows` counts what was read."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows, self._batches = 0, iter(batches)

        def get_next(self) -> dict | None:
            batch = next(self._batches, None)
            if batch is None:
                return None
            self.rows += row_count(batch)
            return dict(batch)

    return Reader()
