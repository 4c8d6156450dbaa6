"""What the model's own graph says of dimensions of any length: which are equally long, how long they may be.

A row that breaks either would only fail inside the model, where nobody could tell its sender why.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bentos.contract import Contract, Field
from pipelines.core.program import Program, is_constant

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node

RESHAPES = ("unsqueeze", "expand", "view", "reshape", "to", "_to_copy", "contiguous", "alias")
"""What positions may pass through between `arange` and their embedding: nothing that adds to them."""


@dataclass(frozen=True)
class _Sizes:
    """symbols   of each dimension of a tensor, by its name; "" where the graph says nothing
    limits    the most that a symbol may stand for, where there is a limit"""

    symbols: Mapping[str, list[str]]
    limits: Mapping[str, int]


def with_axes(contract: Contract, form: str, source: Path) -> Contract:
    """The contract with `axes` and `max_length` of all fields, read off `source`; `form` is "pt2" or "onnx".

    Dimensions of one symbol get one name: length, length_2, … in the order of the contract. A limit is what
    torch.export was told or found out, or the size of an embedding of positions; an ONNX file tells none.
    Raises ModelRefused for an archive that torch can't read.
    """
    fields = (*contract.inputs, *contract.outputs)
    if not any(field.any_length for field in fields):
        return contract
    sizes = _of_onnx(source) if form == "onnx" else _of_program(Program(source, contract))
    symbols = {field: _symbols(field, sizes) for field in fields}
    found = dict.fromkeys(symbol for of_field in symbols.values() for symbol in of_field if symbol)
    names = {symbol: f"length_{n}" if n > 1 else "length" for n, symbol in enumerate(found, 1)} | {"": ""}

    def told(field: Field) -> Field:
        if not any(symbols[field]):
            return field
        limits = [sizes.limits.get(symbol) for symbol in symbols[field] if symbol]
        most = max((limit for limit in limits if limit), default=None)
        axes = tuple(names[symbol] for symbol in symbols[field])
        return replace(field, axes=axes, max_length=None if None in limits else most)

    return replace(
        contract, inputs=tuple(map(told, contract.inputs)), outputs=tuple(map(told, contract.outputs))
    )


def _symbols(field: Field, sizes: _Sizes) -> list[str]:
    """One for each dimension beyond the batch; a dimension of which nothing is known has one of its own."""
    known = sizes.symbols.get(field.name, [])
    known = known if len(known) == len(field.shape) else [""] * len(field.shape)
    own = (f"{field.name}/{dimension}" for dimension in range(len(field.shape)))
    every = zip(field.shape, known, own, strict=True)
    return ["" if size != -1 else symbol or alone for size, symbol, alone in every][1:]


def _of_onnx(source: Path) -> _Sizes:
    import onnx

    graph = onnx.load(source, load_external_data=False).graph
    tensors = {value.name: value.type.tensor_type.shape.dim for value in (*graph.input, *graph.output)}
    return _Sizes({name: [dim.dim_param for dim in dims] for name, dims in tensors.items()}, {})


def _of_program(program: Program) -> _Sizes:
    exported = program.exported
    nodes, signature = {node.name: node for node in exported.graph.nodes}, exported.graph_signature
    of = {"USER_INPUT": program.inputs, "USER_OUTPUT": program.outputs}
    symbols = {}
    for kind, names in of.items():
        specs = (*signature.input_specs, *signature.output_specs)
        tensors = (spec.arg for spec in specs if spec.kind.name == kind and not is_constant(spec.arg))
        for name, tensor in zip(names, tensors, strict=True):
            sizes = nodes[tensor.name].meta["val"].shape
            symbols[name] = ["" if isinstance(size, int) else str(size) for size in sizes]
    limits = {str(symbol): int(r.upper) for symbol, r in exported.range_constraints.items() if _ends(r.upper)}
    for symbol, places in _positions(exported):
        limits[symbol] = min(places, limits.get(symbol, places))
    return _Sizes(symbols, limits)


def _ends(upper) -> bool:
    from torch.utils._sympy.numbers import int_oo

    return upper != int_oo and upper < 2**31


def _positions(exported: "ExportedProgram") -> Iterator[tuple[str, int]]:
    """Each symbol whose `arange` is looked up in an embedding, and how many places that has."""
    for node in exported.graph.nodes:
        if _operator(node) == "embedding":
            weight, looked_up = node.args[:2]
            while _operator(looked_up) in RESHAPES:
                looked_up = looked_up.args[0]
            ends = [argument for argument in looked_up.args if argument != 0]
            if _operator(looked_up) == "arange" and len(ends) == 1 and hasattr(ends[0], "meta"):
                yield str(ends[0].meta["val"]), int(weight.meta["val"].shape[0])


def _operator(node: "Node") -> str:
    """The plain name of a call, e.g. "embedding"; "" for what is none."""
    return str(node.target).split(".")[1] if node.op == "call_function" and "." in str(node.target) else ""
