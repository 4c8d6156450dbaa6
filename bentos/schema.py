"""The JSON of requests and answers, as types derived from the contract: they validate, and they are the
OpenAPI page. What they let pass, `encode` accepts and the tensors can hold, so that no request can spoil
the batch that it shares with others.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, ConfigDict, FailFast, TypeAdapter, ValidationError, WrapValidator
from pydantic import Field as Described
from pydantic_core import InitErrorDetails, PydanticCustomError
from typing_extensions import TypedDict

from bentos.contract import Contract, Field

MAX_STRING_LENGTH = 256
"""Of a value for an open category: a longer one is no category's name."""


def row_type(contract: Contract) -> Any:
    """The JSON object of one row; with a text, the object that has it or the one that has all the tensors.

    Which of the two is meant is told by their keys, so that a refusal speaks of one only.
    """
    types = {field.name: _input_type(field) for field in contract.inputs}
    tensors, text = _object("Row", types, contract), contract.text
    if text is None:
        return tensors
    says = f"It becomes {', '.join(text.inputs)}; what is beyond {text.max_tokens} tokens is cut off."
    others = {name: kind for name, kind in types.items() if name not in text.inputs}
    texts = _object("TextRow", {text.name: Annotated[str, Described(description=says)], **others}, contract)
    either = [TypeAdapter(kind).validator.validate_python for kind in (texts, tensors)]

    def chosen(row: Any, _: Any) -> Any:
        has_text = not isinstance(row, dict) or text.name in row or row.keys().isdisjoint(text.inputs)
        return either[not has_text](row)

    return Annotated[texts | tensors, WrapValidator(chosen)]


def prediction_type(contract: Contract) -> Any:
    """The JSON object of one answer."""
    types = {field.name: _nested(_plain(field), field) for field in contract.outputs}
    return TypedDict("Prediction", types)  # pyright: ignore


def columns(contract: Contract, rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Validated rows as the named columns that `encode` takes; null becomes NaN."""
    return {field.name: _column(field, [row[field.name] for row in rows]) for field in contract.inputs}


def predictions(outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """The model's outputs as one object a row."""
    rows = zip(*(values.tolist() for values in outputs.values()), strict=True)
    return [dict(zip(outputs, row, strict=True)) for row in rows]


def _object(name: str, types: dict[str, Any], contract: Contract) -> Any:
    """A TypedDict, because a column may have any name."""
    made: Any = TypedDict(name, types)  # pyright: ignore
    made.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)
    ties = [tie for tie in contract.ties if tie[0].name in types and tie[2].name in types]
    return Annotated[made, AfterValidator(partial(_tied, ties))] if ties else made


def _tied(ties: list, row: dict[str, Any]) -> dict[str, Any]:
    """The row, if its lists have equal lengths where the contract says so."""
    for first, first_at, field, at in ties:
        if _length(row[first.name], first_at) != _length(row[field.name], at):
            says = "differs from {other} in length"
            unlike = PydanticCustomError("unequal_lengths", says, {"other": first.name})
            detail = InitErrorDetails(type=unlike, loc=(field.name,), input=row[field.name])
            raise ValidationError.from_exception_data("Row", [detail])
    return row


def _length(value: list, depth: int) -> int:
    return _length(value[0], depth - 1) if depth else len(value)


def _plain(field: Field) -> type:
    return {"b": bool, "i": int, "u": int, "f": float}[np.dtype(field.dtype).kind]


def _column_dtype(field: Field) -> str:
    if field.categories is not None:
        return "object"
    return "float64" if _plain(field) is float else field.dtype


def _column(field: Field, values: list[Any]) -> np.ndarray:
    if not field.any_length:
        return np.array(values, dtype=_column_dtype(field))
    rows = (np.array(value, dtype=_column_dtype(field)) for value in values)
    return np.fromiter(rows, dtype=object, count=len(values))


def _input_type(field: Field) -> Any:
    if field.categories is not None:
        return _nested(_category(field.categories, field.open), field)
    return _nested(_number(field) | None if field.nullable else _number(field), field)


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
    """Lists in lists. A -1 is any length: from row to row, not within one. Of many wrong values in a list the
    first is told."""
    for size in reversed(field.shape[1:]):
        low, high = (1, field.max_length) if size == -1 else (size, size)
        value = Annotated[list[value], FailFast(), Described(min_length=low, max_length=high)]
    return Annotated[value, AfterValidator(_even)] if -1 in field.shape[2:] else value


def _even(value: list) -> list:
    try:
        np.shape(value)
    except ValueError as error:
        raise ValueError("inner lists differ in length") from error
    return value
