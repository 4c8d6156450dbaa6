"""A tensor as the Open Inference Protocol carries it: raw bytes, or values of JSON or Protobuf.

Raw bytes are little-endian and row-major, without a copy where they are aligned; a string is its length in
four bytes and UTF-8. Sources: the protocol's specification (kserve/open-inference-protocol) and, for raw
bytes, Triton's binary tensor data extension.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from bentos.contract import MAX_SHOWN, Field
from bentos.errors import Invalid

DTYPES = {
    "BOOL": "bool",
    **{f"{kind.upper()}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
}
"""NumPy's name of each datatype but BYTES, which are strings."""
DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}
PLAIN_TYPES = {"BOOL": {bool}, "BYTES": {str, bytes}, "FP32": {int, float, type(None)}}
PLAIN_TYPES["FP64"] = PLAIN_TYPES["FP32"]
LENGTH_BYTES = 4


@dataclass(slots=True)
class Sent:
    """One input as it came: either its `raw` bytes, or its `values`, flat or nested as the shape says."""

    name: str
    datatype: str
    shape: Sequence[int]
    raw: bytes | memoryview | None = None
    values: list[Any] | None = None

    def invalid(self, reason: str) -> Invalid:
        return Invalid(["inputs", self.name[:MAX_SHOWN]], reason)


def datatype(field: Field) -> str:
    """What a client calls the field's dtype: categories are sent as the strings that they are."""
    return DATATYPES[field.dtype] if field.categories is None else "BYTES"


def array(sent: Sent) -> np.ndarray:
    """The tensor in its shape, which has no dimension below 1; strings are objects. Raises Invalid."""
    count = math.prod(sent.shape)
    flat = _of_values(sent, count) if sent.raw is None else _of_bytes(sent, sent.raw, count)
    return flat.reshape(sent.shape)


def _of_bytes(sent: Sent, raw: bytes | memoryview, count: int) -> np.ndarray:
    if sent.datatype == "BYTES":
        return np.array(_strings(sent, bytes(raw), count), object)
    dtype = np.dtype(DTYPES[sent.datatype])
    if len(raw) != count * dtype.itemsize:
        raise sent.invalid(f"has {len(raw)} bytes where its shape needs {count * dtype.itemsize}")
    if sent.datatype == "BOOL" and np.frombuffer(raw, np.uint8).max() > 1:
        raise sent.invalid("has bytes other than 0 and 1")
    values = np.frombuffer(raw, dtype)
    return values if values.flags.aligned else values.copy()  # checks on unaligned values cost as much


def _strings(sent: Sent, raw: bytes, count: int) -> list[str]:
    if count * LENGTH_BYTES > len(raw):
        raise sent.invalid(f"has {len(raw)} bytes, too few for {count} strings")
    strings, at = [], 0
    for _ in range(count):
        start = at + LENGTH_BYTES
        at = start + int.from_bytes(raw[at:start], "little")
        if at > len(raw):
            raise sent.invalid("has a string that is longer than its bytes")
        strings.append(_string(sent, raw[start:at]))
    if at != len(raw):
        raise sent.invalid(f"has {len(raw) - at} bytes after its {count} strings")
    return strings


def _string(sent: Sent, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise sent.invalid("has a string that is not UTF-8") from error


def _of_values(sent: Sent, count: int) -> np.ndarray:
    if sent.datatype == "FP16":
        raise sent.invalid("is FP16, which is sent as raw bytes only")
    values = _flat(sent)
    if len(values) != count:
        raise sent.invalid(f"has {len(values)} values where its shape needs {count}")
    if not set(map(type, values)) <= PLAIN_TYPES.get(sent.datatype, {int}):
        raise sent.invalid(f"has values that are not {sent.datatype}")
    if sent.datatype == "BYTES":
        strings = [_string(sent, value) if isinstance(value, bytes) else value for value in values]
        return np.array(strings, object)
    try:
        with np.errstate(over="ignore"):  # too large for FP32 is infinite, and refused as such
            return np.array(values, DTYPES[sent.datatype])
    except OverflowError as error:
        raise sent.invalid(f"has a number beyond {sent.datatype}") from error


def _flat(sent: Sent) -> list[Any]:
    """The values one after the other, however far they are nested."""
    values = sent.values or []
    for size in sent.shape[1:]:
        if not values or type(values[0]) is not list:
            break
        if any(type(inner) is not list or len(inner) != size for inner in values):
            raise sent.invalid("is nested unlike its shape")
        values = list(chain.from_iterable(values))
    return values
