"""From what was registered to one self-contained ONNX file: the contract's names, dynamic dimensions."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING

from bentos.contract import Contract
from pipelines.core.errors import ModelRefused
from pipelines.core.onnx_file import copy_self_contained, refuse_other, refuse_weight
from pipelines.core.program import Program, place_of
from pipelines.core.refusals import EXPORT_YOURSELF, first_line, refused

if TYPE_CHECKING:
    from onnx_ir import Graph, Model, Value
    from torch.fx import Node

OPSET = 20


def export_onnx(form: str, source: Path, target: Path, contract: Contract) -> None:
    """Write `source` as an ONNX file without external data; `form` is "pt2" or "onnx".

    Inputs and outputs get the contract's names, and what the contract calls -1 is dynamic. A file that was
    registered as ONNX is copied as it is, or with its external data taken in. Raises ModelRefused for a model
    that ONNX can't express, that ONNX Runtime can't load, or that is not the contract's.
    """
    if form == "onnx":
        copy_self_contained(source, target)
    else:
        _export_program(source, target, contract)
    refuse_other(source, target, contract)


def _export_program(source: Path, target: Path, contract: Contract) -> None:
    import torch

    program = Program(source, contract)
    if shared := sorted({*program.inputs} & {*program.outputs}):
        reason = f"{', '.join(shared)} names both an input and an output, which ONNX can't tell apart"
        raise refused(source, reason, "log it again with a signature of distinct names")
    refuse_weight(source, program.weight_bytes)
    # Says at every export that operators of torchvision, which nothing here uses, are not registered.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    try:
        written = torch.onnx.export(program.exported, (), opset_version=OPSET, dynamo=True, verbose=False)
    except torch.onnx.OnnxExporterError as error:
        raise _not_exported(source, error) from error
    if written is None:
        raise refused(source, "torch.onnx wrote nothing", f"simplify it, {EXPORT_YOURSELF}")
    _rename(written.model, program.inputs, program.outputs)
    written.save(str(target), external_data=False)


def _rename(model: "Model", inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Name the inputs and outputs, after every other value of such a name has made way.

    Subgraphs see the values around them, so theirs make way too; functions see only their own.
    """
    values = [value for graph in model.graphs() for value in _values(graph)]
    wanted = {*inputs, *outputs}
    taken = wanted | {value.name for value in values}
    for value in values:
        if value.name in wanted:
            value.name = next(free for n in range(len(taken)) if (free := f"{value.name}_{n}") not in taken)
            taken.add(value.name)
    for value, name in zip([*model.graph.inputs, *model.graph.outputs], [*inputs, *outputs], strict=True):
        value.name = name


def _values(graph: "Graph") -> Iterator["Value"]:
    yield from graph.inputs
    yield from list(graph.initializers.values())
    for node in graph:
        yield from node.outputs


def _not_exported(source: Path, error: BaseException) -> ModelRefused:
    """The refusal that names the operator and the line of the model's source that uses it."""
    causes = list(_causes(error))
    said, node = first_line(causes[-1]), _failing_node(causes)
    if node is None:
        return refused(source, f"torch.onnx can't express it ({said})", f"simplify it, {EXPORT_YOURSELF}")
    why = "ONNX has nothing like it" if said.startswith("No ONNX function found") else said
    place = place_of(node.meta.get("stack_trace") or "") or "a line that was not recorded"
    reason = f"its operator {node.target}, used at {place}, can't be written as ONNX ({why})"
    return refused(source, reason, f"replace that operator, {EXPORT_YOURSELF}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _failing_node(causes: Sequence[BaseException]) -> "Node | None":
    """The node that torch.onnx was at: its errors only print it, their frames have it."""
    from torch.fx import Node

    frames = (frame for cause in causes for frame, _ in walk_tb(cause.__traceback__))
    nodes = (frame.f_locals.get("node") for frame in frames)
    return next((node for node in nodes if isinstance(node, Node)), None)
