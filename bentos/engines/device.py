"""The session with buffers of its own on the device, for batches that are filled up to a few fixed sizes.

Every (rows, length) of the plan has two buffers, bound once. A batch is copied into a free one, run, and its
outputs are fetched in one go; with two, the next batch is copied while one computes. On CUDA each has a graph
that replays all kernels by one call ("Using CUDA Graphs" in ONNX Runtime's page on the CUDA provider). ONNX
Runtime keeps a graph with the thread that captured it and does not guard it, so graphs are captured
and replayed on one thread that belongs to the session; copies are made in the callers' threads.

The CPU provider runs all of it but the graphs. There is no silent way out: what ONNX Runtime cannot capture
is logged and runs without graphs, and an accelerator that is missing is ProviderMissing.
"""

import logging
from bisect import bisect_left
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any

import numpy as np

from bentos.contract import Contract
from bentos.engines.buffers import NO_GRAPH, Buffers, graph_options
from bentos.engines.engine import Engine, WarmUpFailed, runtime_errors
from bentos.engines.gpu import providers
from bentos.engines.shapes import Shape, axes, batch_sizes, lengths, warm_up_shapes
from bentos.manifest import Cost, Plan

logger = logging.getLogger("bentos.engines.device")

SLOTS = 2
CAPTURE = Lock()
"""While one thread captures a graph, CUDA lets no other allocate."""


class ModelUnusable(RuntimeError):
    """ONNX Runtime cannot load the model file."""

    def __init__(self, model: Path, error: Exception) -> None:
        super().__init__(f"ONNX Runtime cannot load {model.name}: {_said(error)} Build the release again.")


def open_engine(model: Path, contract: Contract, plan: Plan) -> Engine:
    """The session that the plan asks for, on the plan's device and nowhere else; with buffers of its own
    where the plan pads batches. Raises ProviderMissing, ContractMismatch, ModelUnusable."""
    unknown = _unknown_length(contract)
    if unknown and plan.padded_batch_sizes:
        logger.warning("No buffers are kept: no input says how long the output %s is.", unknown)
    try:
        if plan.padded_batch_sizes and not unknown:
            return BoundEngine(model, contract, plan)
        return Engine(model, contract, plan.threads, providers(plan))
    except (*runtime_errors(), OSError) as error:
        raise ModelUnusable(model, error) from error


class BoundEngine(Engine):
    """Like Engine, with the same answers. Before `warm_up`, and for batches larger or longer than any
    that the plan allows, it runs without buffers of its own.

    A batch is filled up with copies of its last row, since a made-up row could change the scale that a
    dynamically quantized model takes from its batch, and to the length of its bucket with zeros.
    """

    def __init__(self, model: Path, contract: Contract, plan: Plan) -> None:
        self._model, self._plan = model, plan
        self.contract, self.overlap = contract, 1 if plan.device == "cpu" else SLOTS
        self._sizes, self._lengths = batch_sizes(plan), lengths(contract, plan)
        self._axes = {field.name: axes(field) for field in contract.inputs}
        self._cuts = [axes(field) for field in contract.outputs]
        self._open(graphs=plan.device == "cuda")

    def warm_up(self, plan: Plan) -> list[Cost]:
        try:
            self._bind(plan)
        except WarmUpFailed as error:
            if not self._graphs:
                raise
            self._without_graphs(error)
            self._bind(plan)
        return super().warm_up(plan)

    def close(self) -> None:
        self._buffers, self._call = {}, _here
        super().close()

    def _open(self, graphs: bool) -> None:
        """A session with CUDA graphs, or one without where ONNX Runtime refuses: it knows best whether a
        node runs on the CPU or holds other nodes (If, Loop, Scan)."""
        self._graphs, self._call = graphs, _own_thread() if graphs else _here
        self._plain = graph_options(NO_GRAPH) if graphs else None
        self._buffers: dict[Shape | None, SimpleQueue[Buffers]] = {}
        try:
            super().__init__(self._model, self.contract, self._plan.threads, providers(self._plan, graphs))
        except runtime_errors() as error:
            if not graphs:
                raise
            self._without_graphs(error)

    def _without_graphs(self, error: Exception) -> None:
        logger.warning("CUDA graphs are off for %s: %s", self._model.name, _said(error))
        self._open(graphs=False)

    def _bind(self, plan: Plan) -> None:
        for shape in warm_up_shapes(self.contract, plan):
            if shape in self._buffers:
                continue
            free: SimpleQueue[Buffers] = SimpleQueue()
            for graph in range(len(self._buffers) * SLOTS + 1, len(self._buffers) * SLOTS + SLOTS + 1):
                free.put(self._allocated(shape, graph if self._graphs else None))
            self._buffers[shape] = free

    def _allocated(self, shape: Shape, graph: int | None) -> Buffers:
        try:
            with CAPTURE:
                return self._call(Buffers, self._session, self.contract, shape, self._plan.device, graph)
        except (*runtime_errors(), RuntimeError) as error:
            raise WarmUpFailed(shape, error) from error

    def _values(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        rows, sizes = len(next(iter(feeds.values()))), self._sizes_of(feeds)
        free = self._buffers.get(self._bucket(rows, max(sizes.values(), default=0)))
        if free is None:
            return self._call(self._run, self._outputs, feeds, self._plain)
        buffers = free.get()
        try:
            buffers.load(feeds)
            self._call(buffers.run)
            values = buffers.fetch()
        finally:
            free.put(buffers)
        return [
            value[(slice(rows), *(slice(sizes.get(key)) for key in keys))]
            for value, keys in zip(values, self._cuts, strict=True)
        ]

    def _sizes_of(self, feeds: Mapping[str, np.ndarray]) -> dict[str | None, int]:
        """How long the dimensions of any length are in this batch."""
        return {
            key: size
            for name, keys in self._axes.items()
            for key, size in zip(keys, feeds[name].shape[1:], strict=True)
            if key is not None
        }

    def _bucket(self, rows: int, length: int) -> Shape | None:
        """The smallest shape with buffers that holds a batch."""
        row, end = bisect_left(self._sizes, rows), bisect_left(self._lengths, length)
        if row == len(self._sizes) or end == len(self._lengths):
            return None
        return self._sizes[row], self._lengths[end]


def _unknown_length(contract: Contract) -> str | None:
    """An output with a dimension of any length that is no input's: padding could not be cut from it."""
    known = {key for field in contract.inputs for key in axes(field)} | {None}
    return next((field.name for field in contract.outputs if not known.issuperset(axes(field))), None)


def _said(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _here(call: Callable, *arguments: Any) -> Any:
    return call(*arguments)


def _own_thread() -> Callable:
    """Runs what it is given on one thread of its own, one after the other, and returns what comes back."""
    executor = ThreadPoolExecutor(1, thread_name_prefix="device")
    return lambda call, *arguments: executor.submit(call, *arguments).result()
