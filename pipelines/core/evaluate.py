"""What a model answers on held-out rows, what it decides, and how far answers move from a reference."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

Tensors = Mapping[str, np.ndarray]
Kind = Literal["probability", "value", "embedding"]
"""What the numbers of an output mean, and so how their movement is measured."""


class Runs(Protocol):
    """Anything that answers like an ONNX session: one array an output."""

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class Shift:
    """How far the answers of `rows` rows moved from a reference, and how many decisions turned."""

    mean: float
    max: float
    flips: int
    rows: int
    kind: Kind = "probability"

    @property
    def flip_rate(self) -> float:
        return self.flips / self.rows


def take(feeds: Tensors, rows: slice | np.ndarray) -> dict[str, np.ndarray]:
    """The same tensors, restricted to some rows."""
    return {name: tensor[rows] for name, tensor in feeds.items()}


def row_count(feeds: Tensors) -> int:
    return len(next(iter(feeds.values())))


def predict(engine: Runs, feeds: Tensors, batch_rows: int) -> dict[str, np.ndarray]:
    """Score all rows in batches of `batch_rows`; one array of `row_count(feeds)` rows an output."""
    batches = [
        engine.run(take(feeds, slice(start, start + batch_rows)))
        for start in range(0, row_count(feeds), batch_rows)
    ]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def as_columns(predictions: np.ndarray) -> np.ndarray:
    """The predictions as float64 of shape (n, k): (n,) becomes one column, what is deeper is flattened."""
    width = int(np.prod(predictions.shape[1:], dtype=int))
    return predictions.astype(np.float64).reshape(len(predictions), width)


def decisions(predictions: np.ndarray, threshold: float) -> np.ndarray:
    """The class decided for each row, (n,): by the threshold where there are two classes, else the largest.

    Of two columns, column 1 must lead by 2·threshold − 1: that is the threshold for probabilities, and still
    the larger of two logits at a threshold of 0.5.
    """
    columns = as_columns(predictions)
    if columns.shape[1] > 2:
        return columns.argmax(axis=1)
    if columns.shape[1] == 2:
        return (columns[:, 1] - columns[:, 0] >= 2 * threshold - 1).astype(np.int64)
    return (columns[:, 0] >= threshold).astype(np.int64)


def cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """The cosine of each pair of rows, (n,); of a zero vector 1 with another one, 0 with all else."""
    ours, theirs = as_columns(ours), as_columns(theirs)
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    both_zero = ~ours.any(axis=1) & ~theirs.any(axis=1)
    raw = np.einsum("ij,ij->i", ours, theirs) / np.where(lengths > 0, lengths, 1)
    return np.where(both_zero, 1.0, np.clip(raw, -1, 1))


def shift(reference: np.ndarray, candidate: np.ndarray, kind: Kind, threshold: float) -> Shift:
    """Compare two sets of predictions, (n,) or (n, k), of the same rows.

    Movement is the largest |Δp| of a row for probabilities, the largest |Δ| in standard deviations of the
    reference's column for values (absolute where that column is constant), and 1 - cosine for embeddings.
    Only probabilities decide something, so only they flip.
    """
    moved = _movement(as_columns(reference), as_columns(candidate), kind)
    flips = 0
    if kind == "probability":
        flips = int((decisions(reference, threshold) != decisions(candidate, threshold)).sum())
    return Shift(float(moved.mean()), float(moved.max()), flips, len(moved), kind)


def _movement(reference: np.ndarray, candidate: np.ndarray, kind: Kind) -> np.ndarray:
    if kind == "embedding":
        return 1 - cosines(reference, candidate)
    moved = np.abs(candidate - reference)
    if kind == "value":
        moved /= np.where(np.ptp(reference, axis=0) > 0, reference.std(axis=0), 1)
    return moved.max(axis=1)
