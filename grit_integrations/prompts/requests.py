"""What callers ask, checked once: a `Prompt` carries turns, documents and its plan from the door to the tensors.

Every complaint about texts comes before any work is done.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from grit_integrations.errors import ContextOverflowError, PromptError
from grit_integrations.options import check_caching
from grit_integrations.prompts.formats import (
    as_list,
    check_characters,
    check_text,
    embedding_header,
    merge_turns,
)
from grit_integrations.prompts.layout import lay_out, lay_out_documents
from grit_integrations.prompts.plan import plan_blocks, plan_prompt

if TYPE_CHECKING:
    from grit_integrations.options import Caching
    from grit_integrations.prompts.formats import (
        Message,
        Messages,
    )
    from grit_integrations.prompts.plan import Plan
    from grit_integrations.prompts.prompt_format import EmbeddingSide
    from grit_integrations.prompts.tokenizer import PromptTokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EncoderInput:
    """Token ids of one embedding prompt; the first `header` of them are attended to but not pooled."""

    ids: Sequence[int]
    header: int

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A conversation and the documents it is answered from: checked and merged, tokenised when that is first needed.

    Made by `prompt_of`, and by `GritLM.prompt`.

    Attributes:
        tokenizer: the model's.
        window: the most tokens of a prompt and its answer.
        turns: alternating turns; at least one has text.
        documents: texts to answer from.
        caching: the mode, which decides where documents stand and how they are read.
        known: texts that may stand verbatim in a turn; one that does is a block of the KV cache there.
        query_instruction: what the question was embedded under.
        quotable: of each document, where the part begins and ends that may be quoted; `None` is all.
    """

    tokenizer: PromptTokenizer
    window: int
    turns: tuple[Message, ...]
    documents: tuple[str, ...] = ()
    caching: Caching = "prefix"
    known: tuple[str, ...] = ()
    query_instruction: str = ""
    quotable: tuple[tuple[int, int], ...] | None = None

    @cached_property
    def plan(self) -> Plan:
        """The blocks that are read one after the other, and the suffix behind them."""
        parts = lay_out(
            self.turns,
            self.documents,
            caching=self.caching,
            known=self.known,
            query_instruction=self.query_instruction,
        )
        return plan_prompt(parts, self.tokenizer)

    @property
    def question(self) -> str:
        """What the user asked last."""
        return [turn.content for turn in self.turns if turn.role == "user"][-1]

    def __len__(self) -> int:
        return len(self.plan)

    def missing(self, max_new_tokens: int) -> int:
        """Return how many tokens the window lacks for this prompt and an answer; 0 if they fit."""
        return max(0, len(self) + max_new_tokens - self.window)

    def check_fits(self, max_new_tokens: int) -> None:
        """Refuse a prompt that does not fit into the window beside its answer.

        Raises:
            ContextOverflowError: with both numbers.
        """
        room = self.window - max_new_tokens
        if room <= 0:
            raise ContextOverflowError(
                f"max_new_tokens={max_new_tokens} leaves no room for a prompt in the model's window of "
                f"{self.window:,} tokens. Ask for fewer."
            )
        for kind, texts in (("Turn", [turn.content for turn in self.turns]), ("Document", self.documents)):
            for index, text in enumerate(texts):
                self.tokenizer.check_length(text, room, f"{kind} {index}")
        if len(self) > room:
            raise ContextOverflowError(
                f"The prompt has {len(self):,} tokens; {room:,} of the model's {self.window:,} are left beside "
                f"max_new_tokens={max_new_tokens}. Retrieve fewer documents, or ask for fewer tokens."
            )


def prompt_of(
    tokenizer: PromptTokenizer,
    window: int,
    messages: Messages,
    documents: Sequence[str] = (),
    *,
    caching: Caching = "prefix",
    known: Sequence[str] = (),
    query_instruction: str | None = None,
    quotable: Sequence[tuple[int, int]] | None = None,
) -> Prompt:
    """Return a checked prompt; the arguments are those of `GritLM.generate`.

    Raises:
        OptionError: a caching mode that does not exist.
        EmptyTextError: no message has any text, or a document has none.
        PromptError: messages or documents that cannot become a prompt.
    """
    given = as_list(documents, "documents")
    texts = tuple(check_text(document, f"Document {index}") for index, document in enumerate(given))
    turns = tuple(merge_turns(messages))
    if texts and not any(turn.role == "user" for turn in turns):
        raise PromptError("Documents were given and no question about them. Add a user turn.")
    return Prompt(
        tokenizer=tokenizer,
        window=window,
        turns=turns,
        documents=texts,
        caching=check_caching(caching),
        known=tuple(check_characters(text, f"Known document {index}") for index, text in enumerate(known)),
        query_instruction=_instruction(tokenizer, "Query", query_instruction, "The query's instruction"),
        quotable=None if quotable is None else tuple(as_list(quotable, "quotable parts")),
    )


def document_plan(tokenizer: PromptTokenizer, window: int, documents: Sequence[str], *, caching: Caching) -> Plan:
    """Return the blocks with which every prompt about `documents` begins in a mode that keeps them; it has no suffix.

    Raises:
        EmptyTextError: a document has no text.
        PromptError: a document that cannot become a prompt.
        ContextOverflowError: documents that do not fit into the window together.
    """
    for index, document in enumerate(documents):
        check_text(document, f"Document {index}")
        tokenizer.check_length(document, window, f"Document {index}")
    plan = plan_blocks(lay_out_documents(documents, caching=caching), tokenizer)
    if len(plan) >= window:
        raise ContextOverflowError(
            f"The documents have {len(plan):,} tokens; the model's window has {window:,} for them, the question and "
            "its answer. Split them into passages, or take fewer."
        )
    return plan


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
    header = tokenizer.encode(embedding_header(_instruction(tokenizer, side, instruction, "The instruction")))
    room = window - len(header)
    if room <= 0:
        raise ContextOverflowError(
            f"The instruction has {len(header):,} tokens with the words around it; the model's window of {window:,} "
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
    return [EncoderInput([*header, *ids[:room]], header=len(header)) for ids in encoded]


def _instruction(tokenizer: PromptTokenizer, side: EmbeddingSide, given: str | None, where: str) -> str:
    return check_characters(tokenizer.format.instruction(side, given), where)


def _report_overflow(where: str, found: int, room: int, truncate: bool) -> None:
    if not truncate:
        raise ContextOverflowError(
            f"{where} has {found:,} tokens; {room:,} fit into the model's window beside the prompt. Split it into "
            "passages, or pass truncate=True."
        )
    logger.warning("%s was cut from at least %d to %d tokens.", where, found, room)
