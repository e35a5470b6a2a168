"""Embedding prompts as token ids: what stands before and behind a text, and which token's state may be its vector."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grit_integrations.errors import ContextOverflowError
from grit_integrations.prompts.formats import Segment, Special, as_list, check_characters, check_text, followed_by

if TYPE_CHECKING:
    from grit_integrations.prompts.prompt_format import EmbeddingSide
    from grit_integrations.prompts.tokenizer import PromptTokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EncoderInput:
    """Token ids of one embedding prompt.

    Attributes:
        ids: the prompt.
        header: how many of its first tokens are attended to but not pooled.
        mark: the place of the token whose state is the vector, of models with `token:` pooling.
    """

    ids: Sequence[int]
    header: int
    mark: int | None = None

    def __len__(self) -> int:
        return len(self.ids)


def embedding_inputs(
    tokenizer: PromptTokenizer,
    window: int,
    texts: Sequence[str],
    side: EmbeddingSide,
    *,
    instruction: str | None = None,
    truncate: bool = False,
) -> list[EncoderInput]:
    """Return the token ids of each text's embedding prompt. Raises as `GritLM.embed_queries` says."""
    texts = as_list(texts, "texts")
    given = check_characters(tokenizer.format.instruction(side, instruction), "The instruction")
    frame = _Frame.of(tokenizer, given, side)
    around = len(frame.header) + len(tokenizer.behind_text)
    room = window - around
    if room <= 0:
        raise ContextOverflowError(
            f"The instruction has {around:,} tokens with the words around it; the model's window of {window:,} "
            "has no room for a text beside them. Shorten the instruction."
        )
    for index, text in enumerate(texts):
        check_text(text, f"{side} {index}")
        if not truncate:
            tokenizer.check_length(text, room, f"{side} {index}")
    encoded = frame.encode(tokenizer, [tokenizer.cut(text, room) for text in texts])
    for index, ids in enumerate(encoded):
        if len(ids) > room:
            _report_overflow(f"{side} {index}", len(ids), room, truncate)
    return [frame.around(tokenizer, ids[:room]) for ids in encoded]


def embedded_ids(text: str, instruction: str, side: EmbeddingSide, tokenizer: PromptTokenizer) -> Sequence[int]:
    """Return the ids of the embedding prompt of a text that has been checked."""
    frame = _Frame.of(tokenizer, instruction, side)
    (ids,) = frame.encode(tokenizer, [text])
    return frame.around(tokenizer, ids).ids


@dataclass(frozen=True, slots=True)
class _Frame:
    """What stands around a text: the ids before it, and how the text is tokenised behind them."""

    header: Sequence[int]
    space: str  # the marker's last one, which belongs to the text's first word
    fresh: bool  # whether the text stands right behind BOS

    @classmethod
    def of(cls, tokenizer: PromptTokenizer, instruction: str, side: EmbeddingSide) -> _Frame:
        parts = followed_by(tokenizer.format.embedding_header(instruction, side), "")
        *header, text = parts
        assert isinstance(text, Segment)
        return cls(tokenizer.encode(header), text.text, header == [Special.BOS])

    def encode(self, tokenizer: PromptTokenizer, texts: Sequence[str]) -> list[list[int]]:
        return tokenizer.encode_texts([self.space + text for text in texts], fresh=self.fresh)

    def around(self, tokenizer: PromptTokenizer, text: Sequence[int]) -> EncoderInput:
        header, mark = self.header, tokenizer.mark_id
        ids = [*header, *text, *tokenizer.behind_text]
        if mark is None:
            return EncoderInput(ids, len(header))
        place = _last(header, mark) if tokenizer.format.marks_header else len(ids) - 1
        return EncoderInput(ids, len(header), place)


def _last(ids: Sequence[int], token: int) -> int:
    return len(ids) - 1 - list(reversed(ids)).index(token)


def _report_overflow(where: str, found: int, room: int, truncate: bool) -> None:
    if not truncate:
        raise ContextOverflowError(
            f"{where} has {found:,} tokens; {room:,} fit into the model's window beside the prompt. Split it into "
            "passages, or pass truncate=True."
        )
    logger.warning("%s was cut from at least %d to %d tokens.", where, found, room)
