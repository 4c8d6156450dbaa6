"""Texts in the place of tokens: the contract they get, and data that holds strings."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bentos.contract import Contract, Field, Text
from pipelines.core.drift import measure_drift, with_text_length
from pipelines.core.errors import ContractBroken, SettingsInvalid
from pipelines.core.expectations import validate_rows
from pipelines.core.rows import longest, stream_tensors, to_records, to_tensors
from pipelines.core.scoring import score_file
from pipelines.core.spec import MonitoringSpec
from pipelines.core.texts import given_fields, tokenizer_of, with_text
from tests.assets.kinds import word_tokenizer

IDS, MASK = (Field(name, "int64", (-1, -1)) for name in ("input_ids", "attention_mask"))
AGE = Field("age", "float32")
CONTRACT = Contract((IDS, MASK, AGE), (Field("p", "float32"),))
TOLD = replace(CONTRACT, text=Text("text", "tokenizer.json", 4, "input_ids", "attention_mask"))
FRAME = pd.DataFrame({"id": [1, 2, 3], "text": ["w1 w2", "w3", "w4 w5 w6 w7 w8"], "age": [1.0, 2.0, 3.0]})
TOKENS = [[1, 2, 0, 0], [3, 0, 0, 0], [4, 5, 6, 7]]
MASKED = [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]


@pytest.fixture
def tokenizer(tmp_path):
    word_tokenizer(tmp_path / "tokenizer.json", cut=4)
    return tokenizer_of(TOLD, tmp_path)


def test_a_tokenizer_gives_the_contract_a_text(tmp_path):
    assert with_text("m", CONTRACT, word_tokenizer(tmp_path / "tokenizer.json", cut=4), "text") == TOLD
    assert with_text("m", CONTRACT, None, "text") is CONTRACT


@pytest.mark.parametrize(("cut", "limit", "most"), [(4, 8, 4), (9, 8, 8), (None, 8, 8), (9, None, 9)])
def test_texts_are_cut_where_tokenizer_or_model_ends(tmp_path, cut, limit, most):
    contract = replace(CONTRACT, inputs=(replace(IDS, max_length=limit), MASK))
    told = with_text("m", contract, word_tokenizer(tmp_path / "tokenizer.json", cut=cut), "body")
    assert told.text == Text("body", "tokenizer.json", most, "input_ids", "attention_mask")


@pytest.mark.parametrize(
    ("inputs", "name", "error", "says"),
    [
        ((replace(IDS, name="ids"),), "text", ContractBroken, "a tokenizer and no input input_ids; log it"),
        (
            (replace(IDS, shape=(-1, 8)),),
            "text",
            ContractBroken,
            "input_ids can't take the tokens of any text",
        ),
        (
            (IDS, replace(MASK, dtype="float32")),
            "text",
            ContractBroken,
            "attention_mask can't take the tokens",
        ),
        ((IDS,), "text", ContractBroken, "nothing says how long a text may be; call enable_truncation"),
        ((IDS, AGE), "age", SettingsInvalid, "serving.text_field is 'age'; the model has a tensor of that"),
        ((IDS,), "p", SettingsInvalid, "serving.text_field is 'p'"),
    ],
)
def test_what_does_not_fit_a_text_is_refused(tmp_path, inputs, name, error, says):
    with pytest.raises(error, match=says):
        tokenizer = word_tokenizer(tmp_path / "tokenizer.json", cut=None)
        with_text("m", replace(CONTRACT, inputs=inputs), tokenizer, name)


@pytest.mark.parametrize("content", ["not JSON", "[]"])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ContractBroken, match=r"its tokenizer\.json can't be read .* write it with save"):
        with_text("m", CONTRACT, tmp_path / "tokenizer.json", "text")


def test_texts_become_tokens_and_other_columns_stay(tmp_path, tokenizer):
    tensors = to_tensors(TOLD, FRAME, "holdout", tokenizer)
    assert tensors["input_ids"].tolist() == TOKENS and tensors["attention_mask"].tolist() == MASKED
    assert tensors["age"].tolist() == [1, 2, 3] and longest(TOLD, tensors) == 4
    FRAME.to_parquet(tmp_path / "rows.parquet")
    first, last = stream_tensors(TOLD, tmp_path / "rows.parquet", "calibration", 2, 3, tokenizer)
    assert first["input_ids"].tolist() == [[1, 2], [3, 0]] and last["input_ids"].tolist() == TOKENS[2:]


def test_tokens_are_taken_as_they_are(tokenizer):
    frame = FRAME.drop(columns="text").assign(input_ids=[[1, 2], [3], [4]], attention_mask=[[1, 1], [1], [1]])
    assert to_tensors(TOLD, frame, "holdout", tokenizer)["input_ids"].tolist() == [[1, 2], [3, 0], [4, 0]]
    assert [field.name for field in given_fields(TOLD, frame)] == ["input_ids", "attention_mask", "age"]
    assert to_records(TOLD, frame)[0] == {"input_ids": [1, 2], "attention_mask": [1, 1], "age": 1.0}


def test_records_hold_the_text_as_it_is_sent():
    assert to_records(TOLD, FRAME)[1] == {"text": "w3", "age": 2.0}
    assert json.dumps(to_records(TOLD, FRAME))


@pytest.mark.parametrize(
    ("texts", "says"),
    [(["w1", None, "w2"], "text: is no text in 1 of 3 rows"), (["w1", "", "w2"], "has no tokens, in row 1")],
    ids=["null", "empty"],
)
def test_texts_that_cannot_be_read_are_named(tokenizer, texts, says):
    with pytest.raises(ContractBroken, match=says):
        to_tensors(TOLD, FRAME.assign(text=texts), "holdout", tokenizer)


class Sums:
    def run(self, feeds):
        return {"p": feeds["input_ids"].sum(1).astype(np.float32)}


def test_a_file_of_texts_is_scored(tmp_path, tokenizer):
    FRAME.to_parquet(tmp_path / "rows.parquet")
    score_file(tmp_path / "rows.parquet", tmp_path / "scores.parquet", Sums(), TOLD, "id", 2, tokenizer)
    assert pd.read_parquet(tmp_path / "scores.parquet")["p"].tolist() == [3, 3, 22]
    FRAME.assign(text=[1, 2, 3]).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ContractBroken, match="the column text holds int64 where strings are expected"):
        score_file(tmp_path / "rows.parquet", tmp_path / "scores.parquet", Sums(), TOLD, "id", 2, tokenizer)


def test_texts_are_expected_to_be_there_and_strings():
    verdict = validate_rows(TOLD, FRAME, "holdout", key="id", subject="abc").verdict
    assert verdict.passed, verdict.why
    for spoiled, says in ((["w1", None, "w2"], "never be empty"), ([1, 2, 3], "text must hold strings")):
        verdict = validate_rows(TOLD, FRAME.assign(text=spoiled), "holdout", key="id", subject="abc").verdict
        assert verdict.outcome == "fail" and says in verdict.why


def test_texts_are_compared_by_their_length(tmp_path):
    def month(words: int) -> pd.DataFrame:
        texts = [" ".join(["w1"] * (1 + row % words)) for row in range(600)]
        return pd.DataFrame({"text": texts, "age": np.arange(600.0), "p": np.arange(600.0)})

    def drifted(current: pd.DataFrame) -> list[str]:
        sides = (with_text_length(TOLD, frame) for frame in (month(4), current))
        report = measure_drift(*sides, TOLD, MonitoringSpec(), tmp_path / "d.html", subject="s", month="m")
        assert [column.column for column in report.columns] == ["age", "p", "text_length"]
        return [column.column for column in report.columns if column.drifted]

    assert drifted(month(4)) == [] and drifted(month(40)) == ["text_length"]
