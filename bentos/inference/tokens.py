"""The tokenizer that is packed beside a model of texts: strings in, rows of token inputs out."""

from collections.abc import Sequence
from pathlib import Path

from bentos.contract import Text
from bentos.errors import Invalid

CHARACTERS_PER_TOKEN = 64
"""How much of a text is looked at, times max_tokens. A text of megabytes would take seconds to tokenize, and
few of its tokens would be kept."""


class Tokenizer:
    """A `tokenizer.json` of the library `tokenizers`, cutting texts at `text.max_tokens`, special tokens
    included. It pads nothing, whatever the file says: rows are padded to the longest of their batch."""

    def __init__(self, file: Path, text: Text) -> None:
        from tokenizers import Tokenizer as Library

        self._made = Library.from_file(str(file))
        self._made.no_padding()
        self._made.enable_truncation(text.max_tokens)
        self._text, self._max_characters = text, text.max_tokens * CHARACTERS_PER_TOKEN
        sources = {"ids": text.ids, "attention_mask": text.mask, "type_ids": text.types}
        self._inputs = [(name, source) for source, name in sources.items() if name]

    def rows(self, texts: Sequence[str]) -> list[dict[str, list[int]]]:
        """The token inputs of each text by name, lists of 1 to max_tokens numbers.

        Raises Invalid, with the number and the name of the text, for one that has no tokens, is no valid
        Unicode, or has megabytes before its first tokens.
        """
        cut = [text[: self._max_characters] for text in texts]
        found = self._encoded(cut)
        for at, tokens in enumerate(found):
            if not tokens.ids:
                raise self._invalid(at, "has no tokens")
            if len(texts[at]) > self._max_characters and not tokens.overflowing:
                said = f"has fewer than {self._text.max_tokens} tokens in {self._max_characters} characters"
                raise self._invalid(at, f"{said}, and goes on: it is too long")
        return [{name: getattr(tokens, source) for name, source in self._inputs} for tokens in found]

    def _encoded(self, texts: list[str]) -> list:
        try:
            return self._made.encode_batch_fast(texts)
        except Exception as error:  # the library raises nothing more precise
            if len(texts) == 1:
                raise self._invalid(0, "can't be turned into tokens") from error
        for at, text in enumerate(texts):
            try:
                self._encoded([text])
            except Invalid as error:
                raise self._invalid(at, error.reason) from error
        raise self._invalid(0, "can't be turned into tokens together with the others")

    def _invalid(self, at: int, reason: str) -> Invalid:
        return Invalid([at, self._text.name], reason)
