"""INT8 weights, each channel with its own scale; the scale of activations is each batch's own.

It needs no calibration, but a row's answer depends on the rows that it shares a batch with.
"""

from collections.abc import Mapping

from pipelines.core.quantize import QUANTIZED_OPS, prepared, weighted_nodes
from pipelines.core.recipe import Recipe


def build(recipe: Recipe) -> Mapping[str, object]:
    """Write the file; the notes count its quantized nodes. Raises RungImpossible where there are none."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with prepared(recipe.source, recipe.target) as exact:
        weighted_nodes(exact, "int8_dynamic")
        quantize_dynamic(exact, recipe.target, QUANTIZED_OPS, per_channel=True, weight_type=QuantType.QInt8)
    operators = [node.op_type for node in onnx.load(recipe.target).graph.node]
    return {"quantized_nodes": operators.count("MatMulInteger") + operators.count("ConvInteger")}
