"""How much noise quantization adds: to each node on its own, and to the answers.

Both are signal-to-quantization-noise ratios in dB, 10 log10(Σx² / Σ(x - x̂)²), as D. Lin, S. Talathi and
V. Annapureddy rank layers by ("Fixed Point Quantization of Deep Convolutional Networks", ICML 2016) and
`onnxruntime.quantization.qdq_loss_debug` compares tensors by. That module keeps every activation of every
batch in memory, and a node looks bad there because of the nodes before it. Here each quantized node runs
beside its float twin on the same, exact input, and only two sums a node leave the graph.
"""

from collections.abc import Iterable, Mapping
from math import log10
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.core.evaluate import Tensors

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

LIMIT_DB = 200.0
"""No noise at all, or with a minus nothing but noise."""

REQUANTIZES = "WeightBiasQuantization"
"""An optimizer of ONNX Runtime: a Conv or Gemm that the file leaves in float32 is quantized by it, with one
scale for all channels, where its neighbours are quantized."""

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
TWIN, AFTER = "twin:", "after:"
RENAMED = "_QuantizeLinear_Input"
"""What the quantizer appends to a tensor that is an output of the model."""


def node_sqnr_db(
    exact: Path, quantized: Path, nodes: Iterable[str], batches: Iterable[Tensors], folder: Path
) -> dict[str, float]:
    """The noise that each of `nodes` would add if it alone were quantized.

    `quantized` was made from the file `exact`, in QDQ form. Nodes that it leaves in float are left out.
    A working file is written to `folder`.
    """
    import onnx

    compared = folder / "compared.onnx"
    model, names = _side_by_side(onnx.load(exact), onnx.load(quantized), set(nodes))
    onnx.save(model, compared, save_as_external_data=True, location="compared.data")
    session = open_session(compared)
    sums = np.zeros(2 * len(names))
    for batch in batches:
        sums += np.array(session.run(None, dict(batch)))
    return {name: _decibel(*sums[2 * at : 2 * at + 2]) for at, name in enumerate(names)}


def answer_sqnr_db(exact: Path, candidate: Path, batches: Iterable[Tensors]) -> float:
    """The noise in the answers of `candidate` against those of `exact`: of the output that has most of it."""
    sessions = open_session(exact), open_session(candidate)
    names = [output.name for output in sessions[0].get_outputs()]
    sums = np.zeros((len(names), 2))
    for batch in batches:
        answers = [session.run(names, dict(batch)) for session in sessions]
        for at, pair in enumerate(zip(*answers, strict=True)):
            true, found = (np.asarray(values, np.float64) for values in pair)
            sums[at] += np.square(true).sum(), np.square(true - found).sum()
    return min(_decibel(signal, noise) for signal, noise in sums)


def open_session(model: Path):
    """A session on one thread of the CPU, with the optimizations that serving has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], disabled_optimizers=[REQUANTIZES]
    )


def _decibel(signal: float, noise: float) -> float:
    if noise == 0:
        return LIMIT_DB
    ratio = float(signal) / float(noise)
    return max(-LIMIT_DB, min(LIMIT_DB, 10 * log10(ratio))) if ratio > 0 else -LIMIT_DB


def _side_by_side(
    exact: "ModelProto", quantized: "ModelProto", nodes: set[str]
) -> tuple["ModelProto", list[str]]:
    """The exact graph with a quantized twin of each node; its outputs are signal and noise, node by node."""
    graph, source = exact.graph, quantized.graph
    maker = {output: node for node in source.node for output in node.output}
    scales = [node for node in source.node if node.op_type in (QUANTIZE, DEQUANTIZE)]
    initializers = {tensor.name for tensor in source.initializer}

    def beside(name: str) -> str:
        quantizes = name in maker and maker[name].op_type in (QUANTIZE, DEQUANTIZE)
        return TWIN + name if name in initializers or quantizes else name.removesuffix(RENAMED)

    del graph.output[:]
    graph.node.extend(_copied(node, TWIN, {name: beside(name) for name in node.input}) for node in scales)
    compared = [node for node in source.node if node.name in nodes and _is_quantized(node, maker)]
    for node in compared:
        wires = {name: beside(name) for name in node.input}
        graph.node.append(_copied(node, TWIN, wires))
        end = _quantized_output(graph, node, scales, beside)
        _add_sums(graph, node.name, node.output[0].removesuffix(RENAMED), end)
    _add_initializers(graph, source)
    return exact, [node.name for node in compared]


def _is_quantized(node: "NodeProto", maker: Mapping[str, "NodeProto"]) -> bool:
    return all(name in maker and maker[name].op_type == DEQUANTIZE for name in node.input[:2])


def _copied(node: "NodeProto", prefix: str, wires: Mapping[str, str]) -> "NodeProto":
    copy = type(node)()
    copy.CopyFrom(node)
    copy.name = prefix + node.name
    copy.input[:] = [wires[name] for name in node.input]
    copy.output[:] = [prefix + name for name in node.output]
    return copy


def _quantized_output(graph: "GraphProto", node: "NodeProto", scales: list["NodeProto"], beside) -> str:
    """Where the twin's output ends: behind the scales that the quantized file puts on it, if it does."""
    end, source = TWIN + node.output[0], node.output[0]
    for kind in (QUANTIZE, DEQUANTIZE):
        step = next((s for s in scales if s.op_type == kind and s.input[0] == source), None)
        if step is None:
            return end
        graph.node.append(_copied(step, AFTER, {n: beside(n) for n in step.input} | {source: end}))
        end, source = AFTER + step.output[0], step.output[0]
    return end


def _add_sums(graph: "GraphProto", name: str, signal: str, found: str) -> None:
    from onnx import TensorProto, helper

    noise = f"noise:{name}"
    graph.node.append(helper.make_node("Sub", [signal, found], [noise]))
    for tensor in (signal, noise):
        total = f"sum:{name}:{tensor}"
        graph.node.append(helper.make_node("ReduceSumSquare", [tensor], [total], keepdims=0))
        graph.output.append(helper.make_tensor_value_info(total, TensorProto.FLOAT, []))


def _add_initializers(graph: "GraphProto", source: "GraphProto") -> None:
    used = {name for node in graph.node for name in node.input}
    for tensor in source.initializer:
        if TWIN + tensor.name in used:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = TWIN + tensor.name
