"""The tensor shapes that a plan can ask a model for: what is warmed up, what a device keeps buffers for."""

from collections.abc import Iterator

import numpy as np

from bentos.contract import Contract, Field
from bentos.manifest import Plan

Shape = tuple[int, int]
"""Rows, and the length of the dimensions of any length; 0 where the contract has none."""


def axes(field: Field) -> list[str | None]:
    """A key for each dimension beyond the first: None where the size is fixed; what shares a key is equally
    long. A dimension of any length that the contract does not name is alike to no other."""
    names = field.axes or ("",) * len(field.shape[1:])
    return [
        (name or f"{field.name}[{at}]") if size == -1 else None
        for at, (size, name) in enumerate(zip(field.shape[1:], names, strict=True), start=1)
    ]


def limits(contract: Contract) -> dict[str, int | None]:
    """The most that each dimension of any length of the inputs may hold; None is no bound."""
    found: dict[str, int | None] = {}
    for field in contract.inputs:
        for key in filter(None, axes(field)):
            bounds = [bound for bound in (found.get(key), field.max_length) if bound is not None]
            found[key] = min(bounds, default=None)
    return found


def lengths(contract: Contract, plan: Plan) -> tuple[int, ...]:
    """The upper ends of the length buckets, up to the longest input that the contract lets in. (0,) where
    every size is fixed; empty where neither plan nor contract says how long an input may be."""
    bounds = limits(contract)
    if not bounds:
        return (0,)
    known = [bound for bound in bounds.values() if bound is not None]
    longest = max(known) if len(known) == len(bounds) else None
    ends = {length if longest is None else min(length, longest) for length in plan.lengths}
    return tuple(sorted(ends if longest is None else ends | {longest}))


def batch_sizes(plan: Plan) -> tuple[int, ...]:
    """The sizes to which batches are filled up; the smallest and the largest where they run as they come."""
    most = plan.max_batch_size
    return tuple(sorted({min(size, most) for size in plan.padded_batch_sizes or (1,)} | {most}))


def warm_up_shapes(contract: Contract, plan: Plan) -> Iterator[Shape]:
    """Every padded size at every length, since each has buffers and a graph of its own; without padded
    sizes the ends are enough, since memory is taken for the largest."""
    ends = lengths(contract, plan) or (1,)
    for length in ends if plan.padded_batch_sizes else sorted({ends[0], ends[-1]}):
        for rows in batch_sizes(plan):
            yield rows, length


def input_shapes(contract: Contract, shape: Shape) -> dict[str, tuple[int, ...]]:
    """The shape of each input tensor, no dimension longer than the contract allows."""
    return {field.name: _sized(field, limits(contract), shape) for field in contract.inputs}


def output_shapes(contract: Contract, shape: Shape) -> dict[str, tuple[int, ...]]:
    """The shape that each output must have; -1 where its length has no name that an input has too."""
    return {field.name: _sized(field, limits(contract), shape) for field in contract.outputs}


def _sized(field: Field, bounds: dict[str, int | None], shape: Shape) -> tuple[int, ...]:
    rows, length = shape

    def size(fixed: int, key: str | None) -> int:
        return max(1, min(length, bounds[key] or length)) if key in bounds else fixed

    return (rows, *map(size, field.shape[1:], axes(field)))


def neutral(contract: Contract, shape: Shape) -> dict[str, np.ndarray]:
    """Input tensors that every model of this contract must be able to answer: 0, or what is nearest to it
    among the values that a client may send."""
    shapes = input_shapes(contract, shape)
    return {field.name: np.full(shapes[field.name], _legal(field), field.dtype) for field in contract.inputs}


def _legal(field: Field) -> float:
    if field.categories is not None:
        return 0 if field.open else 1
    low, high = field.minimum, field.maximum
    return min(max(0, 0 if low is None else low), np.inf if high is None else high)
