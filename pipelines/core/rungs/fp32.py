"""The exported file, with what never changes computed once and what is never used left out.

Only rewrites of the ONNX standard itself, by `onnxscript.optimizer`; ONNX Runtime adds those that suit a
processor when it loads the file. All other rungs are compared with this one, so it must never fail: where
nothing can be simplified, or the simplified file does not hold up, the exported one is taken as it is.
"""

import shutil
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pipelines.core.activations import answer_sqnr_db
from pipelines.core.recipe import Recipe

if TYPE_CHECKING:
    from onnx import GraphProto

SAME_ANSWERS_DB = 100.0
"""Rounding of float32 leaves about 130 dB; this is a difference of 1e-5 of the size of the answers."""


def build(recipe: Recipe) -> Mapping[str, object]:
    """Write the simplified file, or a copy; the notes say which and why."""
    with TemporaryDirectory(dir=recipe.target.parent) as folder:
        simplified = Path(folder) / "simplified.onnx"
        try:
            notes, objection = _simplify(recipe, simplified)
        except Exception as error:  # noqa: BLE001 - an optimizer raises anything, and fp32 must be built
            notes, objection = {}, f"{type(error).__name__}: {error}".splitlines()[0]
        if objection:
            shutil.copyfile(recipe.source, recipe.target)
            return {"simplified": False, "why": objection}
        simplified.replace(recipe.target)
    return {"simplified": True, **notes}


def _simplify(recipe: Recipe, target: Path) -> tuple[Mapping[str, object], str | None]:
    """Write the simplified file; how many nodes it has, and what speaks against it."""
    import onnx
    from onnxscript.optimizer import optimize

    exported = onnx.load(recipe.source)
    simpler = optimize(exported)
    nodes = {"nodes_exported": len(exported.graph.node), "nodes": len(simpler.graph.node)}
    if _operators(simpler.graph) == _operators(exported.graph):
        return nodes, "there is nothing to simplify"
    if _interface(simpler.graph) != _interface(exported.graph):
        return nodes, "simplifying changes the inputs or outputs"
    onnx.save(simpler, target)
    onnx.checker.check_model(target, full_check=True)
    same = answer_sqnr_db(recipe.source, target, islice(recipe.calibration(), 1))
    return nodes, None if same >= SAME_ANSWERS_DB else f"simplifying changes answers ({same:.0f} dB)"


def _operators(graph: "GraphProto") -> Counter:
    return Counter((node.domain, node.op_type) for node in graph.node)


def _interface(graph: "GraphProto") -> list:
    """Name, type and sizes of inputs and outputs; None is a dynamic size."""
    constants = {tensor.name for tensor in graph.initializer}
    return [
        (value.name, value.type.tensor_type.elem_type, _sizes(value))
        for value in [*graph.input, *graph.output]
        if value.name not in constants
    ]


def _sizes(value) -> list[int | None]:
    sizes = value.type.tensor_type.shape.dim
    return [size.dim_value if size.HasField("dim_value") else None for size in sizes]
