"""Rows that clients of a service sent, read back from its prediction log: production's traffic, to be played
again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bentos.contract import Contract, Field
from bentos.watching.segments import NAME
from pipelines.core.errors import SettingsInvalid

WHAT = "The prediction log"
UNKNOWN = ""
"""What a string was that its field knows nothing of is only kept where it came as JSON: any other does."""


def logged_rows(folder: Path, contract: Contract, count: int, seed: int) -> list[dict[str, Any]]:
    """Up to `count` rows drawn from all segments in `folder`, in the order they came in, as `to_records`
    gives rows: the text in place of its tokens, where a client sent a text. The same ones for a seed.

    Raises SettingsInvalid where there are no rows, a segment can't be read, or it is another model's.
    """
    segments = sorted(folder.glob(NAME))
    sizes = [_opened(segment).metadata.num_rows for segment in segments]
    if not sum(sizes):
        mend = "it holds no rows; give the folder that the service has as SEATRIAL_CAPTURE_FOLDER"
        raise SettingsInvalid(WHAT, str(folder), mend)
    starts, rng = np.cumsum([0, *sizes]), np.random.default_rng(seed)
    drawn = np.sort(rng.choice(starts[-1], min(count, starts[-1]), replace=False))
    rows: list[dict[str, Any]] = []
    for segment, start, end in zip(segments, starts, starts[1:], strict=False):
        places = drawn[(drawn >= start) & (drawn < end)] - start
        rows += _rows(segment, contract, places) if len(places) else ()
    return rows


def _rows(segment: Path, contract: Contract, places: np.ndarray) -> Iterator[dict[str, Any]]:
    text, inputs = contract.text, [field.name for field in contract.inputs]
    names = [*inputs, *([text.name] if text else [])]
    columns = [f"input_{name}" for name in names]
    file = _opened(segment)
    if missing := [name for name in columns if name not in file.schema_arrow.names]:
        raise SettingsInvalid(WHAT, str(segment), f"it has no {missing[0]}, so it is another model's")
    table = file.read(columns).take(pa.array(places)).rename_columns(names)
    for row in table.to_pylist():
        words = row.pop(text.name) if text else None
        given = {field.name: _value(field, row[field.name]) for field in contract.inputs}
        if text and words is not None:
            given = {text.name: words, **{k: v for k, v in given.items() if k not in text.inputs}}
        yield given


def _value(field: Field, value: Any) -> Any:
    if isinstance(value, list):
        return [_value(field, inner) for inner in value]
    return UNKNOWN if value is None and field.categories is not None else value


def _opened(segment: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(segment)
    except (OSError, pa.ArrowInvalid) as error:
        mend = f"this segment can't be read ({error}); remove it, or take another folder"
        raise SettingsInvalid(WHAT, str(segment), mend) from error
