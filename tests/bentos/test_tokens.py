"""Strings in, rows of tokens out: as the library makes them, cut but never padded, and never a crash."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import models, normalizers, pre_tokenizers, processors

from bentos.contract import Text
from bentos.errors import Invalid
from bentos.inference.tokens import CHARACTERS_PER_TOKEN, Tokenizer

WORDS = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "well": 4, "met": 5, "##al": 6}
TEXT = Text("text", "tokenizer.json", 5, "ids", "mask", "types")


def save_tokenizer(folder, unknown="[UNK]", marked=True):
    """A WordPiece tokenizer that pads all to 16 tokens, as some that are shipped do."""
    made = Library(models.WordPiece(WORDS, unk_token=unknown))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if marked:
        made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.enable_padding(length=16)
    made.enable_truncation(512)
    made.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer(save_tokenizer(tmp_path_factory.mktemp("tokens")), TEXT)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        pytest.param("Well met", [2, 4, 5, 3], id="words"),
        pytest.param("metal", [2, 5, 6, 3], id="pieces of a word"),
        pytest.param("well met well met", [2, 4, 5, 4, 3], id="cut at max_tokens"),
        pytest.param("well " * 1000, [2, 4, 4, 4, 3], id="cut long before the end"),
        pytest.param("", [2, 3], id="no characters"),
        pytest.param("\0", [2, 3], id="NUL"),
        pytest.param("😀", [2, 1, 3], id="unknown"),
    ],
)
def test_a_text_becomes_tokens(tokenizer, text, ids):
    assert tokenizer.rows([text]) == [{"ids": ids, "mask": [1] * len(ids), "types": [0] * len(ids)}]


def test_rows_are_not_padded_to_each_other(tokenizer):
    assert [len(row["ids"]) for row in tokenizer.rows(["well", "well met"])] == [3, 4]


def test_only_what_the_model_takes_is_made(tmp_path):
    only_ids = Tokenizer(save_tokenizer(tmp_path), Text("text", "tokenizer.json", 5, "tokens"))
    assert only_ids.rows(["met"]) == [{"tokens": [2, 5, 3]}]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("\ud800", "can't be turned into tokens", id="half a surrogate pair"),
        pytest.param(" " * (5 * CHARACTERS_PER_TOKEN) + "met", "fewer than 5 tokens", id="late to start"),
    ],
)
def test_refusals_say_which_text(tokenizer, text, reason):
    with pytest.raises(Invalid, match=reason) as refused:
        tokenizer.rows(["well", text])
    assert refused.value.where == [1, "text"]


def test_a_text_without_tokens_is_refused(tmp_path):
    with pytest.raises(Invalid, match=r"0\.text: has no tokens"):
        Tokenizer(save_tokenizer(tmp_path, marked=False), TEXT).rows([""])


def test_a_word_that_the_tokenizer_cannot_say_is_refused(tmp_path):
    with pytest.raises(Invalid, match=r"1\.text: can't be turned into tokens"):
        Tokenizer(save_tokenizer(tmp_path, unknown="[WHAT]"), TEXT).rows(["well", "unheard"])


@given(texts=st.lists(st.text(st.characters(), max_size=40), min_size=1, max_size=4))
def test_any_string_is_tokenized_or_refused(tokenizer, texts):
    try:
        rows = tokenizer.rows(texts)
    except Invalid:
        return
    assert all(0 < len(row["ids"]) == len(row["mask"]) <= 5 for row in rows) and len(rows) == len(texts)
