"""INT8 weights, each channel with its own scale; UINT8 activations with scales set by calibration rows.

The outputs of MatMul and Gemm stay in float32: ONNX Runtime has kernels for that, so it costs no time, and it
spares each node one of two roundings (MiniLM: cosine .986 instead of .924 at the same speed). Conv has no
such kernel.

Where answers move too far, the file is built again without the nodes that quantization hurts most: first
without the worst, then without a quarter, then without half of them. How much it hurts a node is measured by
comparing activations (`pipelines.core.activations`). All this looks at calibration rows only. The holdout
must have no say in it: a file picked because it does well on the holdout would be judged by rows that it was
picked by, and the gate's confidence bounds would promise what they no longer hold.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.core.activations import answer_sqnr_db, node_sqnr_db
from pipelines.core.evaluate import Tensors
from pipelines.core.quantize import QUANTIZED_OPS, calibration_reader, prepared, weighted_nodes
from pipelines.core.recipe import Recipe

if TYPE_CHECKING:
    from onnx import ModelProto

COMPARED_BATCHES = 4
"""Batches of calibration rows on which activations are compared."""

FOLDED_OPS = ["Relu", "Clip"]
"""Behind a quantized Conv these are nothing but the limits of its output's range, and are left out."""


@dataclass(frozen=True)
class Attempt:
    """A quantized file, the nodes that it leaves in float32, and what speaks against it."""

    path: Path
    excluded: Sequence[str]
    objection: str | None


def build(recipe: Recipe) -> Mapping[str, object]:
    """Write the first file without objection, or else the one whose answers move least.

    The notes give the rows of calibration, how many nodes were quantized, those left out with their
    signal-to-quantization-noise ratio in dB, and the objection that is left. Raises RungImpossible where
    there is nothing to quantize.
    """
    with prepared(recipe.source, recipe.target) as exact:
        nodes, reader = weighted_nodes(exact, "int8_static"), calibration_reader(recipe.calibration())
        attempt, noise_db = _attempt(recipe, exact, reader, nodes, ()), {}
        if attempt.objection:
            noise_db = node_sqnr_db(exact, attempt.path, nodes, _compared(recipe), exact.parent)
            attempt = _without_the_worst(recipe, exact, reader, nodes, noise_db, attempt)
        attempt.path.replace(recipe.target)
    return {
        "calibration_rows": reader.rows,
        "quantized_nodes": len(nodes) - len(attempt.excluded),
        "excluded_nodes_db": {name: round(noise_db[name], 1) for name in attempt.excluded},
        "objection": attempt.objection,
    }


def _without_the_worst(
    recipe: Recipe, exact: Path, reader, nodes: list[str], noise_db: Mapping[str, float], first: Attempt
) -> Attempt:
    """Exclude ever more of the worst nodes. One comparison ranks them all, as it takes each on its own."""
    worst = sorted(noise_db, key=lambda name: (noise_db[name], name))
    attempts = [first]
    for count in _shares(len(worst)):
        attempts.append(_attempt(recipe, exact, reader, nodes, worst[:count]))
        if not attempts[-1].objection:
            return attempts[-1]
    return max(attempts, key=lambda attempt: answer_sqnr_db(exact, attempt.path, _compared(recipe)))


def _shares(nodes: int) -> list[int]:
    """One, a quarter and half of the nodes, but never all."""
    return sorted({count for count in (1, ceil(nodes / 4), ceil(nodes / 2)) if count < nodes})


def _compared(recipe: Recipe) -> Iterator[Tensors]:
    return islice(recipe.calibration(), COMPARED_BATCHES)


def _attempt(recipe: Recipe, exact: Path, reader, nodes: list[str], excluded: Sequence[str]) -> Attempt:
    """Quantize all `nodes` but the excluded ones.

    The calibrator keeps two numbers a tensor of each batch, never the batch. What it found is kept in a file
    for the next attempt.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static

    path = exact.parent / f"without_{len(excluded)}.onnx"
    quantize_static(
        exact,
        path,
        reader,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=[*QUANTIZED_OPS, *FOLDED_OPS],
        nodes_to_exclude=[*excluded, *_unweighted(exact, nodes)],
        extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
        calibration_cache_path=exact.parent / "ranges.json",
    )
    quantized = onnx.load(path)
    _read_unrounded(quantized, excluded)
    onnx.save(quantized, path)
    return Attempt(path, excluded, recipe.objection(path))


def _unweighted(exact: Path, nodes: Sequence[str]) -> list[str]:
    """Products of two activations, as in attention: they stay in float32."""
    import onnx

    graph = onnx.load(exact).graph
    return [node.name for node in graph.node if node.op_type in QUANTIZED_OPS and node.name not in nodes]


def _read_unrounded(model: "ModelProto", nodes: Sequence[str]) -> None:
    """Let `nodes` read what was rounded for other nodes as it was before.

    Not so the output of a Conv: rounding is part of its kernel, as is the Relu that was left out.
    """
    maker = {output: node for node in model.graph.node for output in node.output}
    for node in [node for node in model.graph.node if node.name in nodes]:
        for at, name in enumerate(node.input):
            step = maker[name] if name in maker and maker[name].op_type == "DequantizeLinear" else None
            rounds = maker.get(step.input[0]) if step else None
            exact = rounds.input[0] if rounds else ""
            if exact and not (exact in maker and maker[exact].op_type == "Conv"):
                node.input[at] = exact
