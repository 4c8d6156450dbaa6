"""Answered jobs as Arrow: one row for each predicted row, by one schema that follows from the contract,
whether a job came as JSON rows or as tensors. Imported only where there is a prediction log.

    request_id, row           the request, and the row's place in it
    user                      as the client's header x-user-id says; null where it says nothing
    time                      its arrival, UTC
    model, version, release_id
    way, source               how it came in; model, cache, or the fallback that answered: cached, default
    input_<name>              as the client gave it; codes of categories as names, an unknown one as null
    output_<name>             as it was answered
    queue_ms, model_ms        waiting for a batch and in the model; null where no model was asked
    total_ms                  from arrival to answer

NaN becomes null. Dimensions beyond the batch become lists.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from bentos.contract import Contract, Field
from bentos.manifest import Manifest
from bentos.work import Tensors

NAMES = ("request_id", "way", "source")


class Entry(NamedTuple):
    """What is kept of a job. `when` is wall-clock time in s, all other times are monotonic."""

    request_id: str
    user: bytes | None
    way: str
    source: str
    size: int
    length: int
    rows: list[dict[str, Any]] | None
    feeds: Tensors | None
    outputs: Tensors
    arrived: float
    started: float
    finished: float
    now: float
    when: float


def schema(contract: Contract) -> pa.Schema:
    text, ms = pa.string(), pa.float32()
    words = [(f"input_{contract.text.name}", text)] if contract.text else []
    return pa.schema(
        [
            ("request_id", text),
            ("row", pa.int32()),
            ("user", text),
            ("time", pa.timestamp("us", "UTC")),
            *((name, text) for name in ("model", "version", "release_id", "way", "source")),
            *words,
            *((f"input_{field.name}", _type(field)) for field in contract.inputs),
            *((f"output_{field.name}", _type(field)) for field in contract.outputs),
            *((name, ms) for name in ("queue_ms", "model_ms", "total_ms")),
        ]
    )


def batches(manifest: Manifest, wanted: pa.Schema, entries: Sequence[Entry]) -> Iterator[pa.RecordBatch]:
    """The entries' rows; those whose tensors are of one shape are made into one batch."""
    groups: dict[tuple, list[Entry]] = {}
    for entry in entries:
        groups.setdefault((_shapes(entry.feeds), _shapes(entry.outputs)), []).append(entry)
    for group in groups.values():
        columns = {**_facts(manifest, group), **_inputs(manifest.contract, group)}
        for field in manifest.contract.outputs:
            columns[f"output_{field.name}"] = _joined(field, [entry.outputs for entry in group])
        yield pa.record_batch([columns[name] for name in wanted.names], schema=wanted)


def _shapes(tensors: Tensors | None) -> tuple | None:
    return None if tensors is None else tuple(tensor.shape[1:] for tensor in tensors.values())


def _facts(manifest: Manifest, group: Sequence[Entry]) -> dict[str, pa.Array]:
    """The columns that are not the model's."""
    sizes = np.array([entry.size for entry in group])
    ends, of = sizes.cumsum(), np.repeat(np.arange(len(group)), sizes)
    times = np.array([(e.arrived, e.started, e.finished, e.now, e.when) for e in group])
    arrived, started, finished, now, when = times.T
    ran = started > 0
    parts = {
        "queue_ms": np.where(ran, started - arrived, np.nan),
        "model_ms": np.where(ran, finished - started, np.nan),
        "total_ms": now - arrived,
    }
    micros = ((when - (now - arrived)) * 1e6).astype("datetime64[us]")
    return {
        "row": pa.array(np.arange(len(of)) - (ends - sizes)[of], pa.int32()),
        "time": pa.array(micros[of], pa.timestamp("us", "UTC")),
        **{name: pa.array((part[of] * 1e3).astype("f4"), from_pandas=True) for name, part in parts.items()},
        "user": pa.array([e.user and e.user.decode(errors="replace") for e in group], pa.string()).take(of),
        **{name: pa.array([getattr(e, name) for e in group]).take(of) for name in NAMES},
        **{name: pa.repeat(value, len(of)) for name, value in manifest.identity.items()},
    }


def _inputs(contract: Contract, group: Sequence[Entry]) -> dict[str, pa.Array]:
    columns: dict[str, pa.Array] = {}
    if group[0].rows is None:
        feeds = [entry.feeds or {} for entry in group]
        count = sum(entry.size for entry in group)
        for field in contract.inputs:
            columns[f"input_{field.name}"] = _joined(field, feeds)
        if contract.text:
            columns[f"input_{contract.text.name}"] = pa.nulls(count, pa.string())
        return columns
    rows = [row for entry in group for row in entry.rows or ()]
    for field in contract.inputs:
        values = [row[field.name] for row in rows]
        columns[f"input_{field.name}"] = _nested(field, values, len(field.shape) - 1)
    if contract.text:
        said = [row.get(contract.text.name) for row in rows]
        columns[f"input_{contract.text.name}"] = pa.array(said, pa.string())
    return columns


def _type(field: Field) -> pa.DataType:
    found = _leaf_type(field)
    for _ in field.shape[1:]:
        found = pa.list_(found)
    return found


def _leaf_type(field: Field) -> pa.DataType:
    if field.categories is not None:
        return pa.string()
    return pa.from_numpy_dtype(np.dtype(_stored(field)))


def _stored(field: Field) -> str:
    """Parquet's readers seldom know half floats."""
    return "float32" if field.dtype == "float16" else field.dtype


def _nested(field: Field, values: list, depth: int) -> pa.Array:
    """Lists of lists, which may differ in length, as lists over one flat array."""
    if depth:
        offsets = np.cumsum([0, *map(len, values)], dtype=np.int32)
        inner = _nested(field, list(chain.from_iterable(values)), depth - 1)
        return pa.ListArray.from_arrays(pa.array(offsets), inner)
    if field.categories is not None:
        return pa.array(values, pa.string())
    exact = "float64" if np.dtype(field.dtype).kind == "f" else field.dtype
    return _flat(field, np.array(values, exact))


def _joined(field: Field, tensors: Sequence[Tensors]) -> pa.Array:
    tensor = np.concatenate([each[field.name] for each in tensors])
    found = _flat(field, tensor.reshape(-1))
    for depth in reversed(range(1, tensor.ndim)):
        lists = int(np.prod(tensor.shape[:depth]))
        offsets = np.arange(lists + 1, dtype=np.int32) * tensor.shape[depth]
        found = pa.ListArray.from_arrays(pa.array(offsets), found)
    return found


def _flat(field: Field, values: np.ndarray) -> pa.Array:
    if field.categories is not None:
        known = pa.array(values.astype(np.int64) - 1, mask=values <= 0)
        return pa.array(field.categories, pa.string()).take(known)
    return pa.array(values.astype(_stored(field)), _leaf_type(field), from_pandas=True)
