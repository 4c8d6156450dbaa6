"""Batch scoring: Parquet → model → Parquet, one record batch at a time, so memory does not grow with rows.

The encoding and the session are those of the service, so a row gets the same answer in a batch as online.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bentos.contract import Contract, ContractViolation, Field, encode
from bentos.manifest import sha256
from pipelines.core.errors import ContractBroken, FileMissing
from pipelines.core.texts import STRING, Tokenizes, given_fields, tokenized


class Runs(Protocol):
    """A session: encoded inputs in, outputs by name."""

    def run(self, feeds: dict[str, np.ndarray]) -> Mapping[str, np.ndarray]: ...


@dataclass
class Moments:
    """The mean and the range of one output."""

    mean: float = 0.0
    minimum: float = float("inf")
    maximum: float = float("-inf")

    def add(self, values: np.ndarray, rows_before: int) -> None:
        rows = rows_before + len(values)
        self.mean += (float(values.mean(dtype=np.float64)) - self.mean) * len(values) / rows
        self.minimum = min(self.minimum, float(values.min()))
        self.maximum = max(self.maximum, float(values.max()))


@dataclass(frozen=True)
class ScoreSummary:
    """What was written: `sha256` is the digest of the file."""

    rows: int
    sha256: str
    outputs: dict[str, Moments]


def score_file(
    source: Path,
    target: Path,
    engine: Runs,
    contract: Contract,
    key: str,
    batch_rows: int,
    tokenizer: Tokenizes | None = None,
) -> ScoreSummary:
    """Score every row of `source` into `target`: the key and one column an output, in the same order; an
    output that is a vector becomes a list. Floats are float32. `tokenizer` is needed where the contract has a
    text.

    Raises FileMissing, and ContractBroken naming file and column; then `target` is as it was before.
    """
    partial = target.with_name(f".{target.name}.scoring")
    names = [field.name for field in contract.outputs]
    rows, moments = 0, {name: Moments() for name in names}
    try:
        with _opened(source, contract, key) as file, _writer(partial, file, key, contract) as writer:
            for batch in _batches(file, contract, key, batch_rows):
                scores = _scores(batch, engine, contract, tokenizer, source)
                for name in names:
                    moments[name].add(scores[name], rows)
                columns = [_column(scores[name], writer.schema.field(name).type) for name in names]
                writer.write_batch(pa.record_batch([batch.column(key), *columns], writer.schema))
                rows += len(batch)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return ScoreSummary(rows, sha256(target), moments)


def _opened(source: Path, contract: Contract, key: str) -> pq.ParquetFile:
    """The file, after its columns and types were compared with the contract."""
    strings = [f.name for f in contract.inputs if f.categories is not None and len(f.shape) == 1]
    try:
        # With pre_buffer, which is Arrow's default, all that was read stays in memory to the end.
        file = pq.ParquetFile(source, read_dictionary=strings, pre_buffer=False)
    except FileNotFoundError as error:
        raise FileMissing("scoring input", source) from error
    except pa.ArrowInvalid as error:
        raise _broken(source, f"it is not readable ({error})", "write it as Parquet") from error
    found = {field.name: field.type for field in file.schema_arrow}
    fields = given_fields(contract, found)
    for name in [key, *(field.name for field in fields)]:
        if name not in found:
            raise _broken(source, f"the column {name} is missing", f"add {name}")
    for field in fields:
        expected, fits = _wanted(field)
        if not fits(found[field.name]):
            reason = f"the column {field.name} holds {found[field.name]} where {expected} are expected"
            raise _broken(source, reason, f"write {field.name} as {expected}")
    if file.metadata.num_rows == 0:
        raise _broken(source, "it has no rows", "write the rows to score, or do not score it")
    return file


def _writer(target: Path, file: pq.ParquetFile, key: str, contract: Contract) -> pq.ParquetWriter:
    outputs = (pa.field(field.name, _arrow_type(field)) for field in contract.outputs)
    return pq.ParquetWriter(target, pa.schema([file.schema_arrow.field(key), *outputs]), compression="zstd")


def _arrow_type(field: Field) -> pa.DataType:
    """A number a row, or a list of as many as the row has."""
    kind = np.dtype(field.dtype)
    value = pa.float32() if kind.kind == "f" else pa.from_numpy_dtype(kind)
    return value if len(field.shape) == 1 else pa.list_(value)


def _column(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    if not pa.types.is_list(kind):
        return pa.array(values, kind)
    rows, width = values.shape
    return pa.ListArray.from_arrays(
        np.arange(0, rows * width + 1, width, dtype=np.int32), values.ravel(), kind
    )


def _batches(file: pq.ParquetFile, contract: Contract, key: str, rows: int) -> Iterator[pa.RecordBatch]:
    """The columns that are needed, and nothing else of the file."""
    fields = given_fields(contract, file.schema_arrow.names)
    columns = [key, *(field.name for field in fields if field.name != key)]
    return file.iter_batches(batch_size=rows, columns=columns)


def _scores(
    batch: pa.RecordBatch, engine: Runs, contract: Contract, tokenizer: Tokenizes | None, source: Path
) -> dict[str, np.ndarray]:
    try:
        fields = given_fields(contract, batch.schema.names)
        columns = {field.name: _values(field.name, batch.column(field.name)) for field in fields}
        outputs = engine.run(encode(contract, tokenized(contract, columns, tokenizer)))
    except ContractViolation as error:
        mend = f"correct {error.field}, or the contract"
        raise _broken(source, f"the column {error.field} {error.reason}", mend) from error
    return {field.name: _flat(outputs[field.name], field) for field in contract.outputs}


def _flat(values: np.ndarray, field: Field) -> np.ndarray:
    """One row a row; a tensor of higher rank becomes one vector."""
    flat = values.reshape(len(values), *([] if len(field.shape) == 1 else [-1]))
    return flat.astype(np.float32, copy=False) if flat.dtype.kind == "f" else flat


def _values(name: str, column: pa.Array) -> np.ndarray:
    """A column as NumPy. Of strings only the distinct ones become Python objects; a null number is NaN."""
    if not isinstance(column, pa.DictionaryArray):
        return column.to_numpy(zero_copy_only=False)
    if column.null_count:
        raise ContractViolation(name, f"is null in {column.null_count} of {len(column)} rows")
    return np.array(column.dictionary.to_pylist(), dtype=str)[column.indices.to_numpy()]


def _is_string(kind: pa.DataType) -> bool:
    """As one value a row, strings were read as a dictionary; within lists they are as they are."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(value) or pa.types.is_large_string(value)


def _wanted(field: Field) -> tuple[str, Callable[[pa.DataType], bool]]:
    of_strings = field.categories is not None or field.dtype == STRING
    value, fits = ("strings", _is_string) if of_strings else ("numbers", _is_number)
    return (value, fits) if len(field.shape) == 1 else (f"lists of {value}", partial(_is_list, fits=fits))


def _is_list(kind: pa.DataType, fits: Callable[[pa.DataType], bool]) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and (fits(kind.value_type) or _is_list(kind.value_type, fits))


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _broken(source: Path, reason: str, mend: str) -> ContractBroken:
    return ContractBroken(f"The file {source}", reason, mend)
