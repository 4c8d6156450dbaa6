"""Batches of real rows, as the service forms them: of any number of rows, and as long as a bucket's end."""

from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Any

import numpy as np
import orjson
from pydantic import TypeAdapter

from bentos.batching.assembly import Assembly
from bentos.batching.attempts import Runs, attempt
from bentos.batching.waiting import Part
from bentos.contract import Contract
from bentos.engines.shapes import input_shapes
from bentos.schema import predictions, row_type
from bentos.work import Job, Tensors
from pipelines.core.speed import Clock
from pipelines.core.texts import Tokenizes

Row = dict[str, Any]


class Batches:
    """Of `rows`, JSON objects that the contract allows; texts among them need the `tokenizer`.

    lengths   of each row along its dimensions of any length, as the service sorts it by; empty without such
    """

    def __init__(self, contract: Contract, rows: Sequence[Row], tokenizer: Tokenizes | None = None) -> None:
        self._contract, self._given, self._tokenizer = contract, rows, tokenizer
        self._assembly, self._rows = Assembly(contract), self._tokenized(rows)
        dynamic = [field.name for field in contract.inputs if field.any_length]
        self.lengths = [max(len(row[name]) for name in dynamic) for row in self._rows] if dynamic else []

    def on(self, engine: Runs, rows: int, length: int, clock: Clock) -> Callable[[], Tensors]:
        """What runs a batch and returns the answer to its first row. It is as long as `length`, which is that
        of its first row; the others are no longer. Raises what the model raises."""
        parts = [_part(row, length) for row in self._picked(rows, length)]
        return partial(self._run, engine, clock, parts)

    def feeds(self, rows: int, length: int) -> Tensors:
        """The same batch as tensors."""
        return self._assembly.inputs([_part(row, length) for row in self._picked(rows, length)])

    def requests(self, most: int, answer: Tensors) -> Callable[[], int]:
        """What does for requests of one row each all that the service does beside the batch, and returns how
        many there were: the body is parsed and validated, a text tokenized, an answer written."""
        bodies = [orjson.dumps([row]) for row in self._given[:most]]
        rows: Any = list[row_type(self._contract)]  # pyright: ignore[reportInvalidTypeForm]
        validate = TypeAdapter(rows).validator.validate_json

        def run() -> int:
            for body in bodies:
                self._tokenized(validate(body))
                orjson.dumps(predictions(answer))
            return len(bodies)

        return run

    def _run(self, engine: Runs, clock: Clock, parts: list[Part]) -> Tensors:
        made = attempt(engine, self._assembly, clock, parts)
        for _, error in made.failed:
            raise error
        return made.answered[0][1]

    def _tokenized(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Rows with the tokens beside the text, as the service keeps them."""
        text = self._contract.text
        if text is None or self._tokenizer is None or text.name not in rows[0]:
            return rows
        tokens = self._tokenizer.rows([row[text.name] for row in rows])
        return [{**row, **found} for row, found in zip(rows, tokens, strict=True)]

    def _picked(self, count: int, length: int) -> list[Row]:
        """Rows of at most this length in turn, the first as long as that. Where there are none so short, all
        are cut to it."""
        short = [row for row, own in zip(self._rows, self.lengths, strict=False) if own <= length]
        fitting = (short or [self._sized(row, length) for row in self._rows]) if length else self._rows
        picked = [fitting[at % len(fitting)] for at in range(count)]
        return [self._sized(picked[0], length), *picked[1:]] if length else picked

    def _sized(self, row: Row, length: int) -> Row:
        """The row with its values repeated, or cut, to this length."""
        shapes = input_shapes(self._contract, (1, length))
        sized = {
            field.name: np.resize(np.array(row[field.name]), shapes[field.name][1:]).tolist()
            for field in self._contract.inputs
            if field.any_length
        }
        return {**row, **sized}


def _part(row: Row, length: int) -> Part:
    return Part(Job(_nobody, 1, inf, 0.0, rows=[row], length=length), 0, 1)


def _nobody(_: Job) -> None:
    """Nobody waits for what was only measured."""
