"""Deriving the contract of a model from its signature, its declared categories and the user's ranges."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bentos.contract import Contract, ContractViolation, Field, default_row
from pipelines.core.errors import ContractBroken, SettingsInvalid

CONTRACT_FILE = "contract.json"


class TensorLike(Protocol):
    """A tensor of a signature: name, NumPy dtype name, shape with -1 for the batch."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


def derive_contract(
    model: str,
    inputs: Iterable[TensorLike],
    outputs: Iterable[TensorLike],
    metadata: Mapping,
    ranges: Mapping[str, list[float]],
) -> Contract:
    """The contract of a registered model.

    `metadata["categories"]` maps an input to the strings it was trained on (category i is code i + 1), and
    `metadata["open"]` lists the inputs for which any other string is code 0. `ranges` are the inclusive
    [minimum, maximum] of numeric inputs. Raises ContractBroken where these name no such input, and for a
    tensor that rows of JSON can't be made of.
    """
    categories, opened = metadata.get("categories", {}), metadata.get("open", [])
    inputs, outputs = tuple(inputs), tuple(outputs)
    for tensor in (*inputs, *outputs):
        _refuse_unfit(model, tensor)
    fields = tuple(_input(tensor, categories, opened, ranges) for tensor in inputs)
    known = {field.name for field in fields}
    for source, names in {"ranges": ranges, "categories": categories, "open": opened}.items():
        if stray := sorted(set(names) - known):
            raise ContractBroken(
                model, f"{source} name {', '.join(stray)}", f"its inputs are {sorted(known)}"
            )
    return Contract(fields, tuple(Field(t.name, t.dtype, t.shape) for t in outputs))


def _refuse_unfit(model: str, tensor: TensorLike) -> None:
    if tensor.shape[:1] != (-1,):
        mend = "log it again with a signature whose first dimension is -1, the batch"
        raise ContractBroken(model, f"{tensor.name} has the shape {tensor.shape}", mend)
    if np.dtype(tensor.dtype).kind not in "biuf":
        mend = "let it take and answer numbers; the categories in its metadata say which string is which"
        raise ContractBroken(model, f"{tensor.name} holds {tensor.dtype} values", mend)


def _input(tensor: TensorLike, categories: Mapping, opened: Iterable[str], ranges: Mapping) -> Field:
    low, high = ranges.get(tensor.name, (None, None))
    names = categories.get(tensor.name)
    return Field(
        tensor.name,
        tensor.dtype,
        tensor.shape,
        categories=None if names is None else tuple(names),
        open=tensor.name in opened,
        minimum=low,
        maximum=high,
    )


def judged_output(contract: Contract, name: str | None) -> str:
    """The output that the labels are about: the named one, or the first. Raises SettingsInvalid."""
    names = [field.name for field in contract.outputs]
    if name is None:
        return names[0]
    if name not in names:
        raise SettingsInvalid("gate.output", name, f"the model's outputs are {', '.join(names)}")
    return name


def refuse_key(contract: Contract, key: str) -> None:
    """Raises SettingsInvalid where scores could not hold the key beside the outputs."""
    if key in {field.name for field in contract.outputs}:
        raise SettingsInvalid("data.key", key, "an output of the model has that name: rename the column")


def refuse_default(contract: Contract, answer: Mapping[str, Any] | None) -> None:
    """Raises SettingsInvalid for a default answer that could be none of the model's."""
    if answer is None:
        return
    outputs = {field.name: field for field in contract.outputs}
    try:
        default_row(contract, answer)
    except ContractViolation as error:
        field = outputs.get(error.field)
        mend = f"the model's outputs are {', '.join(outputs)}"
        if field is not None:
            mend = f"{field.name} is {field.dtype} of the shape {field.shape[1:]}, and finite"
        raise SettingsInvalid("serving.default_answer", answer, mend) from error


def save_contract(contract: Contract, folder: Path) -> None:
    (folder / CONTRACT_FILE).write_text(json.dumps(contract.to_dict(), indent=2) + "\n")


def load_contract(place: Path) -> Contract:
    """The contract in a folder, or in a file."""
    file = place / CONTRACT_FILE if place.is_dir() else place
    return Contract.from_dict(json.loads(file.read_text()))
