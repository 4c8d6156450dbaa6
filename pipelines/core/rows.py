"""Rows of a Parquet file, as a frame to validate and as tensors to score."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bentos.contract import Contract, ContractViolation, Field, encode
from pipelines.core.errors import ContractBroken, FileMissing
from pipelines.core.texts import STRING, Tokenizes, given_fields, tokenized

if TYPE_CHECKING:
    from pandas import DataFrame


def read_rows(path: Path, what: str) -> "DataFrame":
    """The whole file. `what` names it in errors, e.g. "holdout". Raises FileMissing, ContractBroken."""
    import pandas

    with _readable(path, what):
        return pandas.read_parquet(path)


def stream_tensors(
    contract: Contract,
    path: Path,
    what: str,
    batch_rows: int,
    max_rows: int,
    tokenizer: Tokenizes | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """The file's first `max_rows` rows as input tensors, at most `batch_rows` at a time.

    Memory holds one batch. Raises FileMissing and ContractBroken, as they are met.
    """
    import pyarrow.parquet

    with _readable(path, what), pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
        there = file.schema_arrow.names
        columns = [field.name for field in given_fields(contract, there) if field.name in there]
        batches, left = file.iter_batches(batch_rows, columns=columns), max_rows
        while left > 0 and (batch := next(batches, None)) is not None:
            yield to_tensors(contract, batch.slice(0, left).to_pandas(), what, tokenizer)
            left -= len(batch)


@contextmanager
def _readable(path: Path, what: str) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except FileNotFoundError as error:
        raise FileMissing(what, path) from error
    except pyarrow.ArrowInvalid as error:
        raise ContractBroken(f"The {what} file {path}", str(error), "write it as Parquet") from error


def to_tensors(
    contract: Contract, frame: "DataFrame", what: str, tokenizer: Tokenizes | None = None
) -> dict[str, np.ndarray]:
    """The frame's rows as the model's input tensors. Raises ContractBroken, naming the column.

    `tokenizer` is needed where the contract has a text, which the frame may hold in place of its tokens.
    """
    columns = {str(name): column.to_numpy() for name, column in frame.items()}
    try:
        return encode(contract, tokenized(contract, columns, tokenizer))
    except ContractViolation as error:
        raise ContractBroken(f"The {what} data", str(error), "correct the column or the contract") from error


def to_array(column: Any, what: str) -> np.ndarray:
    """A Series of labels or predictions: numbers as they are, (n,), lists as rows, (n, k).

    `what` names their file. Raises ContractBroken for lists of several lengths.
    """
    values = column.to_numpy()
    if values.dtype != object or not len(values):
        return values
    try:
        return np.stack(list(values))
    except ValueError as error:
        raise ContractBroken(
            f"The {what} data", f"{column.name} holds lists of several lengths", "make them alike"
        ) from error


def to_records(contract: Contract, frame: "DataFrame") -> list[dict[str, Any]]:
    """The rows as a client sends them: the inputs by name, in the types of JSON that the service wants."""
    fields = given_fields(contract, frame.columns)
    columns = {f.name: [_plain(_json_type(f), value) for value in frame[f.name]] for f in fields}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _json_type(field: Field) -> type:
    if field.categories is not None or field.dtype == STRING:
        return str
    return {"b": bool, "f": float}.get(np.dtype(field.dtype).kind, int)


def _plain(kind: type, value):
    """A value of the frame, or the lists that it consists of; what is missing is null."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and not np.isnan(value).any():
        return value.astype(kind).tolist()
    if isinstance(value, list | np.ndarray):
        return [_plain(kind, inner) for inner in value]
    return None if value is None or value != value else kind(value)


def longest(contract: Contract, tensors: Mapping[str, np.ndarray]) -> int:
    """The length of the rows along dimensions of any length; 0 where the contract has none."""
    pairs = (
        pair
        for field in contract.inputs
        for pair in zip(tensors[field.name].shape[1:], field.shape[1:], strict=True)
    )
    return max((size for size, wanted in pairs if wanted == -1), default=0)


def sample(frame: "DataFrame", rows: int) -> "DataFrame":
    """At most `rows` rows, the same ones each time, in their order."""
    return frame if len(frame) <= rows else frame.sample(rows, random_state=0).sort_index()


def digest_of(*parts: str) -> str:
    """One short digest of several digests or settings."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
