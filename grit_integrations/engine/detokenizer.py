"""Tokens to text one by one: what a new token adds, once its characters are whole."""

from __future__ import annotations

from tokenizers import Tokenizer

_INCOMPLETE = "\ufffd"  # what a decoder puts where a character's bytes are not all there


class Detokenizer:
    """Turns the tokens of one answer into text as they come.

    Only the last few tokens are decoded each time: those before the new text (which decide about spaces) and the new
    ones. `tokenizers.decoders.DecodeStream` would do the same, but raises where byte tokens form no character.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._before: list[int] = []  # tokens of the text that was returned last
        self._new: list[int] = []

    def push(self, token: int) -> str:
        """Return the text that `token` adds; nothing while a character is incomplete."""
        self._new.append(token)
        text = self._added()
        return "" if text.endswith(_INCOMPLETE) else self._taken(text)

    def flush(self) -> str:
        """Return what is left, without a character that the end cut in two."""
        return self._taken(self._added()).rstrip(_INCOMPLETE) if self._new else ""

    def _added(self) -> str:
        whole = self._decode([*self._before, *self._new])
        return whole[len(self._decode(self._before)) :]

    def _taken(self, text: str) -> str:
        if text:
            self._before, self._new = self._new, []
        return text

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""
