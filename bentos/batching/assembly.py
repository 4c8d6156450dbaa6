"""From the parts of a batch to the model's input tensors, and from its outputs back to each job's answer.

What is validated JSON is encoded together, what came as tensors is concatenated. Where any length is allowed,
rows are filled up with zeros to the longest of the batch, and answers are cut to the length of their own job.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from bentos.batching.waiting import Part
from bentos.contract import Contract, encode
from bentos.engines.shapes import axes
from bentos.schema import columns
from bentos.work import Job, Tensors


class Assembly:
    """For one contract. Sizes of dimensions of any length go by the keys of `bentos.engines.shapes.axes`."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._names = [field.name for field in contract.inputs]
        self._dynamic = {field.name for field in (*contract.inputs, *contract.outputs) if field.any_length}
        self._sources = {
            key: (field.name, at)
            for field in contract.inputs
            for at, key in enumerate(axes(field), start=1)
            if key is not None
        }
        self._cuts = {field.name: axes(field) for field in contract.outputs if field.name in self._dynamic}

    def inputs(self, parts: list[Part]) -> Tensors:
        """The tensors of a batch, in the order of `parts`, which is changed where JSON and tensors are mixed.
        Raises ContractViolation, or ValueError for tensors that do not fit each other."""
        if len({job.rows is None for job, _, _ in parts}) > 1:
            parts.sort(key=lambda part: part.job.rows is None)
        rows = [row for job, start, stop in parts if job.rows is not None for row in job.rows[start:stop]]
        blocks = [encode(self._contract, columns(self._contract, rows))] if rows else []
        blocks += [_rows(job.feeds, start, stop) for job, start, stop in parts if job.feeds is not None]
        if len(blocks) == 1:
            return blocks[0]
        return {name: self._joined(name, [block[name] for block in blocks]) for name in self._names}

    def answers(self, parts: Sequence[Part], feeds: Tensors, outputs: Tensors) -> list[tuple[Part, Tensors]]:
        """What belongs to each part: views of the outputs."""
        named, answered, at = list(outputs.items()), [], 0
        for part in parts:
            job, start, end = part
            stop = at + end - start
            answer = {name: values[at:stop] for name, values in named}
            for name in self._cuts:
                answer[name] = answer[name][self._own(name, job, feeds, outputs)]
            answered.append((part, answer))
            at = stop
        return answered

    def whole(self, pieces: Sequence[Tensors]) -> Tensors:
        """One answer from those of several runs."""
        return {name: self._joined(name, [piece[name] for piece in pieces]) for name in pieces[0]}

    def _joined(self, name: str, blocks: list[np.ndarray]) -> np.ndarray:
        """One after the other, filled up to the longest where lengths may differ."""
        if name not in self._dynamic or len({block.shape[1:] for block in blocks}) == 1:
            return np.concatenate(blocks)
        longest = np.max([block.shape[1:] for block in blocks], axis=0)
        joined = np.zeros((sum(map(len, blocks)), *longest), blocks[0].dtype)
        at = 0
        for block in blocks:
            joined[(slice(at, at + len(block)), *map(slice, block.shape[1:]))] = block
            at += len(block)
        return joined

    def _own(self, name: str, job: Job, feeds: Tensors, outputs: Tensors) -> tuple[slice, ...]:
        """Where the job's own values lie in an output: as far as its input reaches along the same axis. An
        axis that no input has is taken for the input's where it is as long as the batch."""
        longest = (
            max(feeds[source].shape[at] for source, at in self._sources.values()) if self._sources else 0
        )
        slices = [slice(None)]
        for size, key in zip(outputs[name].shape[1:], self._cuts[name], strict=True):
            if key in self._sources:
                slices.append(slice(_size(job, *self._sources[key])))
            else:
                slices.append(slice(job.length if key is not None and size == longest else None))
        return tuple(slices)


def _rows(feeds: Mapping[str, np.ndarray], start: int, stop: int) -> Tensors:
    """The rows of a part; without a copy, and without work where it is all."""
    if not start and stop == len(next(iter(feeds.values()))):
        return feeds
    return {name: values[start:stop] for name, values in feeds.items()}


def _size(job: Job, name: str, at: int) -> int:
    """How long a job's input is along its dimension `at`."""
    if job.feeds is not None:
        return job.feeds[name].shape[at]
    values: list = [row[name] for row in job.rows or ()]
    for _ in range(at - 1):
        values = [inner for value in values for inner in value]
    return max(map(len, values))
