"""Weights and arithmetic in float16, for GPUs; inputs and outputs keep the contract's types.

Operators that have no float16 form stay in float32. On a CPU the file loads and answers, but is no faster,
and as ONNX Runtime cancels most casts there, its answers say little of what a GPU would overflow.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from pipelines.core.errors import RungImpossible
from pipelines.core.quantize import prepared
from pipelines.core.recipe import Recipe

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto

STANDS_FOR_INFINITY = 1e30
"""Constants from here on mask something out; the largest float16, which they become, does that as well."""


def build(recipe: Recipe) -> Mapping[str, object]:
    """Write the file; the notes name the operators left in float32.

    Raises RungImpossible where a weight is beyond the range of float16.
    """
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    with prepared(recipe.source, recipe.target) as exact:
        model = onnx.load(exact)
    largest = {tensor.name: _largest(tensor) for tensor in _initializers(model.graph)}
    halved = convert_float_to_float16(model, keep_io_types=True)
    _check_range(halved, largest)
    onnx.save(_ordered(halved), recipe.target)
    left = {node.op_type for node in halved.graph.node} & {*DEFAULT_OP_BLOCK_LIST}
    return {"float32_operators": sorted(left)}


def _initializers(graph: "GraphProto") -> Iterator["TensorProto"]:
    """The constants of a graph and of the graphs inside its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from _initializers(attribute.g)


def _largest(tensor: "TensorProto") -> float:
    """The largest absolute value that is meant as a number."""
    from onnx import numpy_helper

    values = np.abs(numpy_helper.to_array(tensor))
    return float(np.max(values, where=values < STANDS_FOR_INFINITY, initial=0))


def _check_range(model: "ModelProto", largest: Mapping[str, float]) -> None:
    from onnx import TensorProto

    limit = float(np.finfo(np.float16).max)
    for tensor in _initializers(model.graph):
        if tensor.data_type == TensorProto.FLOAT16 and largest.get(tensor.name, 0) > limit:
            raise RungImpossible(
                "fp16",
                f"{tensor.name} holds {largest[tensor.name]:g}, beyond {limit:g}, the largest float16",
                "scale it down in the model, or leave fp16 out of gate.rungs",
            )


def _ordered(model: "ModelProto") -> "ModelProto":
    """Each node once and after what it needs: the converter appends casts, for two readers of a value two."""
    from onnxscript import ir

    nodes = {tuple(node.output): node for node in model.graph.node}
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes.values())
    ordered = ir.serde.deserialize_model(model)
    ordered.graph.sort()
    return ir.serde.serialize_model(ordered)
