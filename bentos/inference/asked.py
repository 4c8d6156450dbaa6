"""What a request of the Open Inference Protocol asks, checked against the contract, whatever carried it.

`protocol` reads requests from HTTP, `grpc_server` from Protobuf. Parameters of sequences and priorities mean
nothing to a model without state and are ignored, as the protocol allows.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bentos.contract import MAX_SHOWN, Contract, ContractViolation, encode
from bentos.errors import Invalid, TooLarge
from bentos.inference.tensors import Sent, array, datatype

REFUSED = {
    "shared_memory_region": "is in shared memory, which is not supported: send the bytes themselves",
    "classification": "can't be answered as classes: ask for the tensor",
}

Tokenize = Callable[[Sequence[str]], list[dict[str, list[int]]]]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. `feeds` are encoded, at least one row; `outputs` are the wanted ones in their order, and
    whether as raw bytes; `id` is the client's name for it."""

    feeds: Mapping[str, np.ndarray]
    outputs: Mapping[str, bool]
    id: str = ""
    timeout_seconds: float | None = None

    def within(self, seconds: float | None) -> float | None:
        """How long its answer is of use to who also said so elsewhere; None where nobody did."""
        said = (limit for limit in (seconds, self.timeout_seconds) if limit is not None)
        return min(said, default=None)


def asked(
    contract: Contract,
    tokenize: Tokenize | None,
    max_rows: int | None,
    sent: Iterable[Sent],
    outputs: Iterable[tuple[str, Mapping]],
    parameters: Mapping[str, Any],
    name: str,
) -> Asked:
    """A request from its parts. Raises Invalid, and TooLarge before it looks at more than `max_rows` rows."""
    timeout = _timeout_seconds(parameters)
    wanted = _wanted(contract, outputs, parameters.get("binary_data_output") is True)
    feeds = _feeds(contract, tokenize, max_rows, sent)
    return Asked(feeds, wanted, name, timeout)


def refuse_parameters(where: Sequence[str | int], parameters: Iterable[str]) -> None:
    """Raises Invalid for parameters of a tensor that can't be ignored."""
    for name, reason in REFUSED.items():
        if name in parameters:
            raise Invalid(where, reason)


def _wanted(contract: Contract, outputs: Iterable[tuple[str, Mapping]], binary: bool) -> dict[str, bool]:
    """The outputs that are asked for, all if none is named, and which of them as raw bytes."""
    known = {field.name: binary for field in contract.outputs}
    wanted = {}
    for name, parameters in outputs:
        where = ["outputs", name[:MAX_SHOWN]]
        if name not in known:
            raise Invalid(where, f"is not an output of this model; those are {', '.join(known)}")
        if name in wanted:
            raise Invalid(where, "is asked for twice")
        refuse_parameters(where, parameters)
        wanted[name] = parameters.get("binary_data", binary) is True
    return wanted or known


def _feeds(
    contract: Contract, tokenize: Tokenize | None, max_rows: int | None, sent: Iterable[Sent]
) -> dict[str, np.ndarray]:
    fields = {field.name: (datatype(field), field.shape) for field in contract.inputs}
    text = contract.text if tokenize else None
    if text is not None:
        fields[text.name] = ("BYTES", (-1,))
    columns: dict[str, np.ndarray] = {}
    for tensor in sent:
        _check(tensor, fields, columns)
        if max_rows is not None and tensor.shape[0] > max_rows:
            raise TooLarge("the number of rows", tensor.shape[0], max_rows)
        columns[tensor.name] = array(tensor)
    if tokenize and text is not None and text.name in columns:
        _tokenized(text.name, text.inputs, tokenize, columns)
    try:
        return encode(contract, columns)
    except ContractViolation as error:
        raise Invalid(["inputs", error.field], error.reason) from error


def _check(tensor: Sent, fields: Mapping[str, tuple[str, tuple[int, ...]]], earlier: Mapping) -> None:
    if tensor.name not in fields:
        shown = tensor.name[:MAX_SHOWN]
        raise Invalid(["inputs", shown], f"is not an input of this model; those are {', '.join(fields)}")
    if tensor.name in earlier:
        raise tensor.invalid("is given twice")
    kind, wanted = fields[tensor.name]
    if tensor.datatype != kind:
        raise tensor.invalid(f"must have the datatype {kind}")
    if not all(type(size) is int and size > 0 for size in tensor.shape):
        raise tensor.invalid("must have a shape of whole numbers, none below 1")
    fits = len(tensor.shape) == len(wanted) and all(
        size == expected or expected == -1 for size, expected in zip(tensor.shape, wanted, strict=True)
    )
    if not fits:
        raise tensor.invalid(f"must have the shape {list(wanted)}, where -1 is any number")
    if earlier and len(next(iter(earlier.values()))) != tensor.shape[0]:
        raise tensor.invalid("has another number of rows than the inputs before it")


def _tokenized(name: str, inputs: Sequence[str], tokenize: Tokenize, columns: dict[str, np.ndarray]) -> None:
    """Puts the token inputs in the place of the text."""
    if given := next((other for other in inputs if other in columns), None):
        raise Invalid(["inputs", given], f"comes from {name}, which is given as well")
    try:
        rows = tokenize(columns.pop(name).tolist())
    except Invalid as error:
        raise Invalid(["inputs", name, error.where[0]], error.reason) from error
    for source in inputs:
        columns[source] = np.fromiter((row[source] for row in rows), object, len(rows))


def _timeout_seconds(parameters: Mapping[str, Any]) -> float | None:
    """The parameter `timeout`, in microseconds; 0 is none."""
    given = parameters.get("timeout")
    if given is not None and (type(given) is not int or given < 0):
        raise Invalid(["parameters", "timeout"], "must be a whole number of microseconds")
    return given / 1e6 if given else None
