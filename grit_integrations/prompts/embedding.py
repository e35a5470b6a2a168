"""Embedding prompts as token ids: what stands before and behind a text, and which token's state may be its vector."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grit_integrations.errors import ContextOverflowError
from grit_integrations.prompts.formats import as_list, check_characters, check_text, embedding_header

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
    header = tokenizer.encode(embedding_header(given))
    around = len(header) + len(tokenizer.behind_text)
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
    encoded = tokenizer.encode_texts([tokenizer.cut(text, room) for text in texts])
    for index, ids in enumerate(encoded):
        if len(ids) > room:
            _report_overflow(f"{side} {index}", len(ids), room, truncate)
    return [_input(tokenizer, header, ids[:room]) for ids in encoded]


def embedded_ids(text: str, instruction: str, tokenizer: PromptTokenizer) -> list[int]:
    """Return the ids of the embedding prompt of a text that has been checked."""
    header, (ids,) = tokenizer.encode(embedding_header(instruction)), tokenizer.encode_texts([text])
    return list(_input(tokenizer, header, ids).ids)


def _input(tokenizer: PromptTokenizer, header: Sequence[int], text: Sequence[int]) -> EncoderInput:
    ids, mark = [*header, *text, *tokenizer.behind_text], tokenizer.mark_id
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
