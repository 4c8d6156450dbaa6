"""The JSON of requests and answers, as types derived from the contract: they validate, and they are the
OpenAPI page. What they let pass, `encode` accepts and the tensors can hold, so that no request can spoil
the batch that it shares with others.
"""

import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, ConfigDict
from pydantic import Field as Described
from typing_extensions import TypedDict

from bentos.contract import Contract, Field

MAX_STRING_LENGTH = 256
"""Of a value for an open category: an array of strings is as wide as its longest, for all rows."""


def row_type(contract: Contract) -> Any:
    """The JSON object of one row. A TypedDict, because a column may have any name."""
    types = {field.name: _input_type(field) for field in contract.inputs}
    row: Any = TypedDict("Row", types)  # pyright: ignore
    row.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)
    return row


def prediction_type(contract: Contract) -> Any:
    """The JSON object of one answer."""
    types = {field.name: _nested(_plain(field), field) for field in contract.outputs}
    return TypedDict("Prediction", types)  # pyright: ignore


def columns(contract: Contract, rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Validated rows as the named columns that `encode` takes; null becomes NaN."""
    return {field.name: _column(field, [row[field.name] for row in rows]) for field in contract.inputs}


def predictions(outputs: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """The model's outputs as one object a row."""
    rows = zip(*(values.tolist() for values in outputs.values()), strict=True)
    return [dict(zip(outputs, row, strict=True)) for row in rows]


def _plain(field: Field) -> type:
    return {"b": bool, "i": int, "u": int, "f": float}[np.dtype(field.dtype).kind]


def _column_dtype(field: Field) -> str:
    if field.categories is not None:
        return "str"
    return "float64" if _plain(field) is float else field.dtype


def _column(field: Field, values: list[Any]) -> np.ndarray:
    if -1 not in field.shape[1:]:
        return np.array(values, dtype=_column_dtype(field))
    rows = (np.array(value, dtype=_column_dtype(field)) for value in values)
    return np.fromiter(rows, dtype=object, count=len(values))


def _input_type(field: Field) -> Any:
    value = _number(field) if field.categories is None else _category(field.categories, field.open)
    return _nested(value | None if field.nullable else value, field)


def _category(names: tuple[str, ...], is_open: bool) -> Any:
    if not is_open:
        return Literal[names]
    says = "One of the examples; any other string counts as unknown."
    return Annotated[str, Described(max_length=MAX_STRING_LENGTH, examples=list(names), description=says)]


def _number(field: Field) -> Any:
    """A number within the contract's range and within what the tensor's dtype can hold."""
    plain = _plain(field)
    if plain is bool:
        return bool
    limits = np.finfo(field.dtype) if plain is float else np.iinfo(field.dtype)
    low = limits.min if field.minimum is None else field.minimum
    high = limits.max if field.maximum is None else field.maximum
    if plain is int:
        return Annotated[int, Described(ge=math.ceil(low), le=math.floor(high))]
    return Annotated[float, Described(ge=float(low), le=float(high), allow_inf_nan=False)]


def _nested(value: Any, field: Field) -> Any:
    """Lists in lists. A -1 is any length: from row to row, not within one."""
    for size in reversed(field.shape[1:]):
        low, high = (1, None) if size == -1 else (size, size)
        value = Annotated[list[value], Described(min_length=low, max_length=high)]
    return Annotated[value, AfterValidator(_even)] if -1 in field.shape[2:] else value


def _even(value: list) -> list:
    try:
        np.shape(value)
    except ValueError as error:
        raise ValueError("inner lists differ in length") from error
    return value
