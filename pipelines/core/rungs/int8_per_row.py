"""INT8 weights and activations, with a scale for each row: no row's answer depends on its batch mates, which
dynamic INT8 cannot promise.

Known as per-token dynamic quantization (Z. Yao et al., ZeroQuant, NeurIPS 2022) and vector-wise quantization
(T. Dettmers et al., LLM.int8(), NeurIPS 2022).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pipelines.core.errors import RungImpossible
from pipelines.core.quantize import prepared
from pipelines.core.recipe import Recipe

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

ZERO, STEPS = 128, 127
"""Activations are UINT8 around 128: x86 multiplies UINT8 by INT8 in one instruction, INT8 by INT8 not."""
TINY = 1e-12
"""The scale of a row of zeros."""
OPSET = 18
"""Older opsets can't reduce over an axis that is an input."""
CONTRIB = "com.microsoft"


def build(recipe: Recipe) -> Mapping[str, object]:
    """Replace every product with a constant matrix. Raises RungImpossible where there is none."""
    import onnx

    with prepared(recipe.source, recipe.target) as file:
        model = onnx.load(file)
    model = _upgraded(model)
    replaced = quantize_rows(model)
    if not replaced:
        raise RungImpossible(
            "int8_per_row", "it multiplies by no constant matrix", "leave the rung out of gate.rungs"
        )
    onnx.save(model, recipe.target)
    return {"quantized_nodes": replaced}


def quantize_rows(model: "ModelProto") -> int:
    """Rewrite the graph in place; returns how many products were replaced."""
    from onnx import helper

    graph, nodes, replaced = model.graph, [], 0
    constants = {tensor.name: tensor for tensor in graph.initializer}
    rewritten = _Rewritten(graph)
    for node in graph.node:
        found = _product(node, constants)
        if found is None:
            nodes.append(node)
        else:
            nodes += rewritten.product(node, *found)
            replaced += 1
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unused(graph)
    if CONTRIB not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(CONTRIB, 1))
    return replaced


def _upgraded(model: "ModelProto") -> "ModelProto":
    from onnx.version_converter import convert_version

    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return model if opset >= OPSET else convert_version(model, OPSET)


def _product(node: "NodeProto", constants: Mapping) -> tuple[np.ndarray, str | None] | None:
    """The matrix (K, N) and the name of the bias, if there is one, of a product that can be replaced."""
    from onnx import numpy_helper

    if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in constants:
        return None
    matrix = numpy_helper.to_array(constants[node.input[1]])
    flags = {attribute.name: attribute.i for attribute in node.attribute}
    if matrix.ndim != 2 or matrix.dtype != np.float32 or flags.get("transA"):
        return None
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    return matrix.T if flags.get("transB") else matrix, bias


class _Rewritten:
    """Writes products anew. Nodes that read the same tensor are written alike, constants and all, so that
    ONNX Runtime merges them: the three projections of an attention quantize their input once."""

    def __init__(self, graph: "GraphProto") -> None:
        self.graph = graph
        self.constants: set[str] = set()

    def product(self, node: "NodeProto", matrix: np.ndarray, bias: str | None) -> list["NodeProto"]:
        """x (…, K) times the matrix (K, N), plus the bias, as integers with one scale a row and a column."""
        from onnx import TensorProto, helper

        output, made = node.output[0], []
        scales = np.maximum(np.abs(matrix).max(0), TINY) / STEPS
        weights = np.clip(np.round(matrix / scales), -STEPS, STEPS).astype(np.int8)

        def add(operator: str, inputs: list[str], name: str, domain: str = "", **attributes) -> str:
            result = f"{output}/{name}" if name else output
            title = f"{output}/{name or 'result'}/node"
            made.append(helper.make_node(operator, inputs, [result], title, domain=domain, **attributes))
            return result

        depth, width = matrix.shape
        last = self._constant("per_row/last", np.array([-1], np.int64))
        lengths = add("Shape", [node.input[0]], "lengths", end=-1)
        flat = self._constant(f"per_row/flat_{depth}", np.array([-1, depth], np.int64))
        rows = add("Reshape", [node.input[0], flat], "rows")
        reach = add("ReduceMax", [add("Abs", [rows], "size"), last], "reach", keepdims=0)
        step = self._constant("per_row/step", np.array(1 / STEPS, np.float32))
        tiny = self._constant("per_row/tiny", np.array(TINY, np.float32))
        scale = add("Max", [add("Mul", [reach, step], "wide"), tiny], "scale")
        zeros = helper.make_tensor("zero", TensorProto.UINT8, [1], [ZERO])
        zero = add("ConstantOfShape", [add("Shape", [scale], "count")], "zeros", value=zeros)
        operands = [
            add("QuantizeLinear", [rows, scale, zero], "quantized", axis=0),
            self._constant(f"{output}/weights", weights),
            self._constant("per_row/one", np.array(1, np.float32)),
            self._constant(f"{output}/scales", scales.astype(np.float32)),
            self._constant("per_row/zero", np.array(ZERO, np.uint8)),
        ]
        exact = add("MatMulIntegerToFloat", operands, "product", CONTRIB)
        result = add("Mul", [exact, add("Unsqueeze", [scale, last], "scale_column")], "scaled")
        if bias:
            result = add("Add", [result, bias], "biased")
        wide = self._constant(f"per_row/width_{width}", np.array([width], np.int64))
        add("Reshape", [result, add("Concat", [lengths, wide], "shape", axis=0)], "")
        return made

    def _constant(self, name: str, values: np.ndarray) -> str:
        from onnx import numpy_helper

        if name not in self.constants:
            self.constants.add(name)
            self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name


def _drop_unused(graph: "GraphProto") -> None:
    """Without the matrices that were replaced, the file is a quarter as large."""
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
