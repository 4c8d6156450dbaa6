"""The contract: a model's inputs and outputs, and the one encoding used online and in batch.

Everything that touches a row goes by this schema: the ONNX names and dtypes are checked against it, the
service validates with it, Great Expectations and Evidently get their definitions from it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

MAX_SHOWN = 80
"""Characters of a refused string that its refusal repeats."""


class ContractViolation(ValueError):
    """A value that the contract does not allow. `field` names the column, `reason` says what is wrong."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason = field, reason


@dataclass(frozen=True)
class Field:
    """One input or output tensor; for tabular models, one column.

    name        column, ONNX input and JSON key alike
    dtype       NumPy dtype of the tensor that the model sees: int64, float32, …
    shape       -1 is the batch and comes first; (-1,) is one value a row, (-1, 16) a vector a row; a further
                -1 is any length, the same for all rows of a batch: (-1, -1) are the token ids of a text
    categories  the strings a user may send; category i is encoded as i + 1
    open        True: a string outside `categories` is encoded as 0 ("any other"); False: it is refused
    minimum, maximum   values outside are refused; None is no bound
    nullable    whether NaN may pass
    axes        a name for each dimension beyond the first where any length is allowed, "" for the others;
                equal names must be equal in size, over all inputs of a row
    max_length  the most that a dimension of any length may hold; None is no bound
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = (-1,)
    categories: tuple[str, ...] | None = None
    open: bool = False
    minimum: float | None = None
    maximum: float | None = None
    nullable: bool = False
    axes: tuple[str, ...] = ()
    max_length: int | None = None

    @property
    def any_length(self) -> bool:
        """Whether a dimension beyond the batch may have any length."""
        return -1 in self.shape[1:]

    @cached_property
    def codes(self) -> dict[str, int]:
        """The code of each category."""
        return {name: at + 1 for at, name in enumerate(self.categories or ())}

    @classmethod
    def from_dict(cls, fields: Mapping) -> "Field":
        categories = fields.get("categories")
        return cls(
            **{
                **fields,
                "shape": tuple(fields.get("shape", (-1,))),
                "categories": None if categories is None else tuple(categories),
                "axes": tuple(fields.get("axes", ())),
            }
        )


@dataclass(frozen=True)
class Text:
    """How a string stands for token tensors, where a tokenizer is packed beside the model.

    name        the JSON key, and the name of the BYTES input, e.g. "text"
    file        the tokenizer, a `tokenizer.json` of the library `tokenizers`
    max_tokens  longer texts are cut
    ids, mask, types   the inputs that get token ids, attention mask and segment ids; None where there is none
    """

    name: str
    file: str
    max_tokens: int
    ids: str
    mask: str | None = None
    types: str | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs that come from the text."""
        return tuple(name for name in (self.ids, self.mask, self.types) if name)


@dataclass(frozen=True)
class Contract:
    """All inputs and outputs, in the order of the model's signature. With `text`, a row may give the string
    in place of the inputs that come from it."""

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    text: Text | None = None

    @cached_property
    def ties(self) -> tuple[tuple[Field, int, Field, int], ...]:
        """Pairs of inputs that must be equal in size: an input, which of its dimensions, counted from the
        first after the batch, and the same of the other."""
        first, found = {}, []
        for field in self.inputs:
            for at, axis in enumerate(field.axes):
                if axis in first:
                    found.append((*first[axis], field, at))
                elif axis:
                    first[axis] = field, at
        return tuple(found)

    @classmethod
    def from_dict(cls, fields: Mapping) -> "Contract":
        return cls(
            tuple(map(Field.from_dict, fields["inputs"])),
            tuple(map(Field.from_dict, fields["outputs"])),
            Text(**fields["text"]) if fields.get("text") else None,
        )

    def to_dict(self) -> dict:
        return asdict(self)


def encode(contract: Contract, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Turn named columns of equal length into the model's input tensors.

    `columns[name]` is an array of rows: strings for a field with categories, numbers otherwise. Where a
    field has further dimensions, it may be an object array whose rows are lists or arrays, as list columns of
    Parquet arrive. Where the contract allows any length, shorter rows are filled up with zeros at their ends,
    so 0 must mean padding to the model: as a token id, in an attention mask, as the code of no category.

    Returns one array a field with the field's dtype and shape. Raises `ContractViolation` for the first field
    that is missing, holds a value the contract does not allow, or differs in length from one that it shares
    an axis with. Vectorised; no value is touched as a Python object but for the strings themselves.
    """
    feeds, sizes = {}, {}
    for field in contract.inputs:
        feeds[field.name], sizes[field.name] = _tensor(field, _column(field, columns))
    if len({len(tensor) for tensor in feeds.values()}) > 1:
        raise ContractViolation("rows", "the columns differ in length")
    for first, first_at, field, at in contract.ties:
        if np.any(sizes[first.name][first_at] != sizes[field.name][at]):
            raise ContractViolation(field.name, f"differs from {first.name} in length")
    return feeds


def default_row(contract: Contract, answer: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """An {output: value} of one row that stands for the model's, as arrays without the batch. Raises
    ContractViolation for what could be none of its answers; `field` is "" where the names are wrong."""
    names = [field.name for field in contract.outputs]
    if sorted(answer) != sorted(names):
        raise ContractViolation("", f"has {sorted(answer)}, the model's outputs are {', '.join(names)}")
    return {field.name: _default(field, answer[field.name]) for field in contract.outputs}


def _default(field: Field, given: Any) -> np.ndarray:
    try:
        value = np.asarray(given)
    except ValueError as error:  # its lists differ in length
        raise ContractViolation(field.name, f"is not {field.dtype}") from error
    if not np.can_cast(value.dtype, field.dtype, "same_kind"):
        raise ContractViolation(field.name, f"is not {field.dtype}")
    _check_shape(field, (1, *value.shape))
    tensor = _cast(field, value)
    _check_finite(field, np.atleast_1d(tensor), nullable=False)
    return tensor


def _column(field: Field, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    if field.name not in columns:
        raise ContractViolation(field.name, "is missing")
    return np.asarray(columns[field.name])


def _tensor(field: Field, values: np.ndarray) -> tuple[np.ndarray, Sequence]:
    """The tensor, and the size of its rows along each further dimension: one for all, or an array of them."""
    if values.dtype.kind == "O" and values.ndim == 1 < len(field.shape):
        return _padded(field, values)
    _check_shape(field, values.shape)
    return _converted(field, values), values.shape[1:]


def _converted(field: Field, values: np.ndarray) -> np.ndarray:
    """Strings as codes, numbers as they are, in the field's dtype."""
    return _numbers(field, values) if field.categories is None else _codes(field, values)


def _padded(field: Field, values: np.ndarray) -> tuple[np.ndarray, Sequence]:
    """Rows that are lists or arrays, as one array. What the rows hold is checked, the padding is not."""
    rows = [_row(field, value) for value in values]
    for shape in {row.shape for row in rows}:
        _check_shape(field, (len(rows), *shape))
    sizes = np.array([[max(1, size) for size in field.shape[1:]], *(row.shape for row in rows)])
    longest, sizes = sizes.max(axis=0), sizes[1:]
    given = np.ones((len(rows), *longest), bool)
    for axis, positions in enumerate(np.ogrid[tuple(map(slice, longest))]):
        given &= positions < sizes[:, axis].reshape(-1, *[1] * len(longest))
    tensor = np.zeros(given.shape, field.dtype)
    if rows:
        tensor[given] = _converted(field, np.concatenate([row.ravel() for row in rows]))
    return tensor, tuple(sizes.T)


def _row(field: Field, value) -> np.ndarray:
    """One row; the nested lists of Parquet arrive as arrays of arrays."""
    try:
        row = np.asarray(value)
        nested = row.dtype.kind == "O" and row.size and isinstance(row.flat[0], list | np.ndarray)
        return np.stack([_row(field, inner) for inner in row]) if nested else row
    except ValueError as error:
        raise ContractViolation(field.name, "has a row whose inner lists differ in length") from error


def _check_shape(field: Field, shape: tuple[int, ...]) -> None:
    """Any length from 1 to `max_length` will do where the contract says -1 beyond the first place."""
    if len(shape) != len(field.shape) or not all(
        size == wanted or (wanted == -1 and size > 0)
        for size, wanted in zip(shape[1:], field.shape[1:], strict=True)
    ):
        raise ContractViolation(field.name, f"has shape {shape} where {field.shape} is expected")
    if field.max_length is not None:
        for size, wanted in zip(shape[1:], field.shape[1:], strict=True):
            if wanted == -1 and size > field.max_length:
                raise ContractViolation(field.name, f"is {size} long, allowed are {field.max_length}")


def _numbers(field: Field, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "iufb":
        raise ContractViolation(field.name, f"holds {values.dtype} values where numbers are expected")
    tensor = values if values.dtype == field.dtype else _cast(field, values)
    if tensor.dtype.kind == "f":
        _check_finite(field, tensor, field.nullable)
    if field.minimum is not None and np.count_nonzero(values < field.minimum):
        raise ContractViolation(field.name, f"is below {field.minimum:g}")
    if field.maximum is not None and np.count_nonzero(values > field.maximum):
        raise ContractViolation(field.name, f"is above {field.maximum:g}")
    return tensor


def _cast(field: Field, values: np.ndarray) -> np.ndarray:
    """The values in the field's dtype; a float that is too large becomes infinite, all else stays equal."""
    if np.dtype(field.dtype).kind == "f":
        with np.errstate(over="ignore"):
            return values.astype(field.dtype)
    if values.dtype.kind == "f":
        _check_finite(field, values, nullable=False)
        if (values != np.floor(values)).any():
            raise ContractViolation(field.name, f"holds fractions where {field.dtype} is expected")
    with np.errstate(invalid="ignore"):
        tensor = values.astype(field.dtype)
    if (tensor != values).any():
        raise ContractViolation(field.name, f"holds values beyond {field.dtype}")
    return tensor


def _check_finite(field: Field, values: np.ndarray, nullable: bool) -> None:
    if np.count_nonzero(np.isfinite(values)) == values.size:  # for few values, faster than all()
        return
    missing = np.isnan(values)
    if missing.any() and not nullable:
        raise ContractViolation(field.name, f"is NaN in {int(missing.sum())} of {len(values)} rows")
    if np.isinf(values).any():
        raise ContractViolation(field.name, "is infinite")


def _codes(field: Field, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "OUS":
        raise ContractViolation(field.name, f"holds {values.dtype} values where strings are expected")
    strings = (values.astype(str) if values.dtype.kind == "S" else values).ravel().tolist()
    if not all(issubclass(kind, str) for kind in set(map(type, strings))):
        raise ContractViolation(field.name, "holds values that are not strings")
    codes = [field.codes.get(string, 0) for string in strings]
    if not field.open and 0 in codes:
        stranger = strings[codes.index(0)][:MAX_SHOWN]
        raise ContractViolation(field.name, f"{stranger!r} is not one of its categories")
    return np.array(codes, field.dtype).reshape(values.shape)
