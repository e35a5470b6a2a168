"""What callers ask, checked once: a `Prompt` carries turns, documents and its plan from the door to the tensors.

Every complaint about texts comes before any work is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from grit_integrations.doc_blocks import PLAIN
from grit_integrations.errors import ContextOverflowError, PromptError
from grit_integrations.options import check_caching
from grit_integrations.prompts.formats import (
    as_list,
    check_characters,
    check_text,
    merge_turns,
)
from grit_integrations.prompts.layout import lay_out, lay_out_documents
from grit_integrations.prompts.plan import plan_blocks, plan_prompt

if TYPE_CHECKING:
    from grit_integrations.doc_blocks import DocBlocks
    from grit_integrations.options import Caching
    from grit_integrations.prompts.formats import (
        Message,
        Messages,
    )
    from grit_integrations.prompts.plan import Plan
    from grit_integrations.prompts.tokenizer import PromptTokenizer


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A conversation and the documents it is answered from: checked and merged, tokenised when that is first needed.

    Made by `prompt_of`, and by `GritLM.prompt`.

    Attributes:
        tokenizer: the model's.
        window: the most tokens of a prompt and its answer.
        turns: alternating turns, none of them blank; a system turn stands first where the model has one.
        documents: texts to answer from.
        caching: the mode, which decides where documents stand and how they are read.
        known: texts that may stand verbatim in a turn; one that does is a block of the KV cache there.
        query_instruction: what the question was embedded under.
        doc_blocks: how documents are read in `"doc"` mode.
        quotable: of each document, where the part begins and ends that may be quoted; `None` is all.
    """

    tokenizer: PromptTokenizer
    window: int
    turns: tuple[Message, ...]
    documents: tuple[str, ...] = ()
    caching: Caching = "prefix"
    known: tuple[str, ...] = ()
    query_instruction: str = ""
    doc_blocks: DocBlocks = PLAIN
    quotable: tuple[tuple[int, int], ...] | None = None

    @cached_property
    def plan(self) -> Plan:
        """The blocks that are read one after the other, and the suffix behind them."""
        parts = lay_out(
            self.turns,
            self.documents,
            form=self.tokenizer.format.turns,
            caching=self.caching,
            known=self.known,
            query_instruction=self.query_instruction,
            doc_blocks=self.doc_blocks,
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
    doc_blocks: DocBlocks = PLAIN,
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
    turns = tuple(merge_turns(messages, system=tokenizer.format.turns.has_system))
    if texts and not any(turn.role == "user" for turn in turns):
        raise PromptError("Documents were given and no question about them. Add a user turn.")
    return Prompt(
        tokenizer=tokenizer,
        window=window,
        turns=turns,
        documents=texts,
        caching=check_caching(caching),
        known=tuple(check_characters(text, f"Known document {index}") for index, text in enumerate(known)),
        query_instruction=check_characters(
            tokenizer.format.instruction("Query", query_instruction), "The query's instruction"
        ),
        doc_blocks=doc_blocks,
        quotable=None if quotable is None else tuple(as_list(quotable, "quotable parts")),
    )


def document_plan(
    tokenizer: PromptTokenizer,
    window: int,
    documents: Sequence[str],
    *,
    caching: Caching,
    doc_blocks: DocBlocks = PLAIN,
) -> Plan:
    """Return the blocks with which every prompt about `documents` begins in a mode that keeps them; it has no suffix.

    Raises:
        EmptyTextError: a document has no text.
        PromptError: a document that cannot become a prompt.
        ContextOverflowError: documents that do not fit into the window together.
    """
    for index, document in enumerate(documents):
        check_text(document, f"Document {index}")
        tokenizer.check_length(document, window, f"Document {index}")
    parts = lay_out_documents(documents, form=tokenizer.format.turns, caching=caching, doc_blocks=doc_blocks)
    plan = plan_blocks(parts, tokenizer)
    if len(plan) >= window:
        raise ContextOverflowError(
            f"The documents have {len(plan):,} tokens; the model's window has {window:,} for them, the question and "
            "its answer. Split them into passages, or take fewer."
        )
    return plan
