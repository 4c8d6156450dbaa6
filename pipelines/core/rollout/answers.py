"""How a model's answers are counted, so that two releases can be compared by how theirs are spread."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from bentos.contract import Contract, Field
from pipelines.core.errors import SettingsInvalid

Reduced = Literal["value", "largest", "mean"]
"""value     a row is answered by one number, and that is it
largest   it is answered by a vector: the index of its largest number. That is the class, of scores of
          classes; of an embedding it is the strongest component, which moves when embeddings turn, but does
          not tell whereto
mean      it is answered by a matrix, or by numbers of any length, such as scores of each token"""


@dataclass(frozen=True)
class Answers:
    """One number a row, of one of the model's outputs, in bins.

    output   of the contract
    edges    ascending; a bin ends with its edge, and the last one has no end
    reduced  how a row's answer becomes a number
    """

    output: str
    edges: tuple[float, ...]
    reduced: Reduced = "value"

    def numbers(self, values: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """The number of each row, (rows,), from all its values one after the other: those of row i are
        values[starts[i]:starts[i + 1]], (rows + 1,). NaN where one of them is."""
        rows = len(starts) - 1
        values = np.asarray(values, float)[starts[0] : starts[-1]]
        if self.reduced == "value" or not rows:
            return values
        if self.reduced == "mean":
            return np.add.reduceat(values, starts[:-1] - starts[0]) / np.diff(starts)
        vectors = values.reshape(rows, -1)
        return np.where(np.isnan(vectors).any(axis=1), np.nan, vectors.argmax(axis=1))

    def count(self, numbers: np.ndarray) -> list[int]:
        """How many of the numbers fall into each of the len(edges) + 1 bins; NaN into none."""
        known = np.asarray(numbers, float)
        bins = np.searchsorted(self.edges, known[~np.isnan(known)], side="left")
        return np.bincount(bins, minlength=len(self.edges) + 1).tolist()

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "Answers":
        return cls(**{**found, "edges": tuple(found["edges"])})


def answers_of(contract: Contract, outputs: Mapping[str, np.ndarray], bins: int = 20) -> Answers:
    """Bins with about equally many of the reference's answers in each, of the output that says most in one
    number: a fraction rather than a class, a class rather than a vector. `outputs` are of the reference,
    (rows, ...) each. Raises SettingsInvalid where there is nothing to count."""
    fields = [field for field in contract.outputs if field.categories is None and field.name in outputs]
    if not fields:
        raise SettingsInvalid("outputs", sorted(outputs), "give the reference's answers, numbers, by output")
    field = min(fields, key=_said)
    tensor = np.asarray(outputs[field.name], float)
    starts = np.arange(len(tensor) + 1) * (tensor[:1].size or 1)
    found = Answers(field.name, (), _reduced(field))
    numbers = found.numbers(tensor.reshape(-1), starts)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        raise SettingsInvalid(field.name, "without a number", "give answers of the reference that are some")
    return Answers(field.name, _edges(numbers, bins), found.reduced)


def _said(field: Field) -> tuple[int, bool]:
    return len(field.shape), np.dtype(field.dtype).kind != "f"


def _reduced(field: Field) -> Reduced:
    if len(field.shape) == 1:
        return "value"
    return "mean" if len(field.shape) > 2 or field.any_length else "largest"


def _edges(numbers: np.ndarray, bins: int) -> tuple[float, ...]:
    """Halfway between neighbours, as one value that many rows are answered by, 0.5 say, is not to change its
    bin with the last digit."""
    values = np.unique(numbers)
    if len(values) == 1:
        return (float(values[0]),)
    wanted = np.quantile(numbers, np.arange(1, bins) / bins, method="inverted_cdf")
    at = np.unique(np.searchsorted(values, wanted))
    at = at[at + 1 < len(values)]
    return tuple(np.unique((values[at] + values[at + 1]) / 2).tolist()) or (float(values[-2:].mean()),)
