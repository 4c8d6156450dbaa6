"""Texts in the place of tokens: what a registered tokenizer adds to the contract, and data of strings."""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from bentos.contract import Contract, ContractViolation, Field, Text
from bentos.errors import Invalid
from pipelines.core.errors import ContractBroken, SettingsInvalid

TOKENIZER_FILE = "tokenizer.json"
USUAL = {"ids": "input_ids", "mask": "attention_mask", "types": "token_type_ids"}
"""The names of inputs that tokens go to."""
STRING = "str"
"""The dtype of a column of texts, as NumPy calls it; no tensor has it."""


class Tokenizes(Protocol):
    """A tokenizer as the service has it: one {input: values} a text, of any length."""

    def rows(self, texts: list[str]) -> list[dict[str, list[int]]]: ...


def with_text(model: str, contract: Contract, tokenizer: Path | None, name: str) -> Contract:
    """The contract of a model whose `tokenizer`, a tokenizer.json, was registered with it: rows may give the
    text `name` in place of its tokens. Texts are cut where the tokenizer says so, or the model must.

    Raises ContractBroken where text and model do not fit together, SettingsInvalid for a name that is taken.
    """
    if tokenizer is None:
        return contract
    inputs = {field.name: field for field in contract.inputs}
    takes = {role: usual for role, usual in USUAL.items() if usual in inputs}
    if "ids" not in takes:
        mend = "log it again with an input of that name, or without the tokenizer"
        raise ContractBroken(model, "it has a tokenizer and no input input_ids", mend)
    for field in (inputs[usual] for usual in takes.values()):
        if field.shape != (-1, -1) or np.dtype(field.dtype).kind != "i":
            mend = "log it again with whole numbers of any length there, (-1, -1), or without the tokenizer"
            raise ContractBroken(model, f"{field.name} can't take the tokens of any text", mend)
    if name in {field.name for field in (*contract.inputs, *contract.outputs)}:
        raise SettingsInvalid("serving.text_field", name, "the model has a tensor of that name")
    most = [limit for limit in (_cut(model, tokenizer), inputs[takes["ids"]].max_length) if limit]
    if not most:
        mend = "call enable_truncation on the tokenizer, save it, and log the model again"
        raise ContractBroken(model, "nothing says how long a text may be", mend)
    return replace(contract, text=Text(name, TOKENIZER_FILE, min(most), **takes))


def _cut(model: str, tokenizer: Path) -> int | None:
    """The number of tokens that the tokenizer itself cuts texts to."""
    try:
        truncation = json.loads(tokenizer.read_text()).get("truncation")
    except (ValueError, AttributeError) as error:
        mend = "write it with save() of the library tokenizers"
        raise ContractBroken(model, f"its {TOKENIZER_FILE} can't be read ({error})", mend) from error
    return truncation and truncation["max_length"]


def given_fields(contract: Contract, columns: Iterable[str]) -> tuple[Field, ...]:
    """What a table of these columns gives rows by: the text in place of its tokens, where it has the text."""
    text = contract.text
    if text is None or text.name not in columns:
        return contract.inputs
    others = (field for field in contract.inputs if field.name not in text.inputs)
    return (Field(text.name, STRING), *others)


def tokenizer_of(contract: Contract, folder: Path) -> Tokenizes | None:
    """The tokenizer that lies in a folder beside the contract or the model; None where rows are no texts."""
    if contract.text is None:
        return None
    from bentos.inference.tokens import Tokenizer

    return Tokenizer(folder / contract.text.file, contract.text)


def copy_tokenizer(contract: Contract, source: Path, target: Path) -> None:
    """Copy the tokenizer, where the contract has one, from folder to folder."""
    if contract.text:
        shutil.copyfile(source / contract.text.file, target / contract.text.file)


def tokenized(
    contract: Contract, columns: Mapping[str, np.ndarray], tokenizer: Tokenizes | None
) -> Mapping[str, np.ndarray]:
    """The columns with tokens in place of texts, where there are texts. Raises ContractViolation."""
    text = contract.text
    if text is None or text.name not in columns:
        return columns
    assert tokenizer, "a contract with a text comes with its tokenizer"
    values = columns[text.name].tolist()
    if strange := sum(not isinstance(value, str) for value in values):
        raise ContractViolation(text.name, f"is no text in {strange} of {len(values)} rows")
    try:
        rows = tokenizer.rows(values)
    except Invalid as refused:
        raise ContractViolation(text.name, f"{refused.reason}, in row {refused.where[0]}") from refused
    made = {
        name: np.fromiter((np.array(row[name], np.int64) for row in rows), object, len(rows))
        for name in text.inputs
    }
    return {**columns, **made}
