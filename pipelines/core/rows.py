"""Rows of a Parquet file, as a frame to validate and as tensors to score."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bentos.contract import Contract, ContractViolation, encode
from pipelines.core.errors import ContractBroken, FileMissing

if TYPE_CHECKING:
    from pandas import DataFrame


def read_rows(path: Path, what: str) -> "DataFrame":
    """The whole file. `what` names it in errors, e.g. "holdout". Raises FileMissing, ContractBroken."""
    import pandas
    import pyarrow

    try:
        return pandas.read_parquet(path)
    except FileNotFoundError as error:
        raise FileMissing(what, path) from error
    except pyarrow.ArrowInvalid as error:
        raise ContractBroken(f"The {what} file {path}", str(error), "write it as Parquet") from error


def to_tensors(contract: Contract, frame: "DataFrame", what: str) -> dict[str, np.ndarray]:
    """The frame's rows as the model's input tensors. Raises ContractBroken, naming the column."""
    try:
        return encode(contract, {str(name): column.to_numpy() for name, column in frame.items()})
    except ContractViolation as error:
        raise ContractBroken(f"The {what} data", str(error), "correct the column or the contract") from error


def sample(frame: "DataFrame", rows: int) -> "DataFrame":
    """At most `rows` rows, the same ones each time, in their order."""
    return frame if len(frame) <= rows else frame.sample(rows, random_state=0).sort_index()


def digest_of(*parts: str) -> str:
    """One short digest of several digests or settings."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
