"""Callers' texts and messages to checked token ids: every complaint comes before any work is done."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

from grit_integrations.engine.encoder import EncoderInput
from grit_integrations.errors import ContextOverflowError, OptionError, PromptError
from grit_integrations.loading.checkpoint import Checkpoint
from grit_integrations.options import Caching, Decoding, check_caching
from grit_integrations.prompts.formats import (
    Messages,
    as_messages,
    check_characters,
    check_text,
    embedding_header,
    merge_turns,
)
from grit_integrations.prompts.layout import lay_out
from grit_integrations.prompts.plan import Plan, plan_prompt
from grit_integrations.quoting.graph import Region
from grit_integrations.quoting.spans import Spans, whole

logger = logging.getLogger(__name__)

_LONG_WORD = 4  # letters; shorter ones, such as "of" and "the", stand in every question


def embedding_inputs(
    checkpoint: Checkpoint, texts: Sequence[str], kind: str, *, instruction: str = "", truncate: bool = False
) -> list[EncoderInput]:
    """Return the token ids of each text's embedding prompt. Raises as `GritLM.embed_queries` says."""
    if isinstance(texts, str):
        raise PromptError("One string was given where a list of texts is wanted. Put it in a list: [text].")
    tokenizer = checkpoint.tokenizer
    header = tokenizer.encode(embedding_header(check_characters(instruction, "The instruction")))
    room = checkpoint.window - len(header)
    for index, text in enumerate(texts):
        check_text(text, f"{kind} {index}")
        if not truncate:
            tokenizer.check_length(text, room, f"{kind} {index}")
    encoded = tokenizer.encode_texts([tokenizer.cut(text, room) for text in texts])
    for index, ids in enumerate(encoded):
        if len(ids) > room:
            _report_overflow(f"{kind} {index}", len(ids), room, truncate)
    return [EncoderInput([*header, *ids[:room]], header=len(header)) for ids in encoded]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a generation is about. The attributes are those of `GritLM.generate`."""

    messages: Messages
    documents: Sequence[str] = ()
    known_documents: Sequence[str] = ()
    caching: Caching = "prefix"
    query_instruction: str = ""
    quotable: Sequence[tuple[int, int]] | None = None


def generation_plan(checkpoint: Checkpoint, prompt: Prompt, *, max_new_tokens: int) -> Plan:
    """Return a prompt's blocks and suffix, if it fits into the window beside its answer.

    Raises:
        OptionError: a caching mode that does not exist.
        PromptError: messages or documents that cannot become a prompt.
        ContextOverflowError: prompt and answer exceed the window.
    """
    check_caching(prompt.caching)
    room = checkpoint.window - max_new_tokens
    if room <= 0:
        raise ContextOverflowError(
            f"max_new_tokens={max_new_tokens} leaves no room for a prompt in the model's window of "
            f"{checkpoint.window:,} tokens. Ask for fewer."
        )
    for index, turn in enumerate(as_messages(prompt.messages)):
        checkpoint.tokenizer.check_length(turn.content, room, f"Message {index}")
    plan = _plan(checkpoint, prompt, room)
    if len(plan) > room:
        raise ContextOverflowError(
            f"The prompt has {len(plan):,} tokens; {room:,} of the model's {checkpoint.window:,} are left beside "
            f"max_new_tokens={max_new_tokens}. Retrieve fewer documents, or ask for fewer tokens."
        )
    return plan


def check_quoting(prompt: Prompt, decoding: Decoding) -> None:
    """Raise `OptionError` if a quote is asked for and there is nothing to quote from."""
    if decoding.quoting is not None and not prompt.documents:
        raise OptionError(
            "quote was asked for without any document to quote from. Pass documents=[text], or leave quote out."
        )


def quotable_regions(prompt: Prompt) -> list[Region]:
    """Return the parts of a prompt's documents that may be quoted.

    Raises:
        OptionError: parts that the documents do not have.
    """
    if prompt.quotable is None:
        return whole(prompt.documents)
    lengths = [len(document) for document in prompt.documents]
    parts = list(prompt.quotable)
    fits = len(parts) == len(lengths) and all(
        0 <= start <= end <= length for (start, end), length in zip(parts, lengths, strict=True)
    )
    if not fits:
        raise OptionError(
            f"quotable={parts!r} does not fit documents of {lengths} characters. Give one (start, end) a document."
        )
    return [Region(index, start, end, end) for index, (start, end) in enumerate(parts)]


def quotable_spans(checkpoint: Checkpoint, prompt: Prompt, decoding: Decoding, regions: Sequence[Region]) -> Spans:
    """Return what may be quoted of `regions` of a prompt's documents.

    Raises:
        OptionError: the shortest word has more tokens than the answer may have.
        PromptError: there is no word to quote.
    """
    quoting = decoding.quoting
    any_word = quoting is None or quoting.echo or quoting.method == "sentences"
    unwanted = set() if any_word else _words_of(last_question(prompt.messages))
    spans = Spans(checkpoint.tokenizer, prompt.documents, regions=regions, stops=decoding.stop, unwanted=unwanted)
    limits = {"max_new_tokens": decoding.max_new_tokens}
    if quoting is not None and quoting.method == "spans":
        limits["longest"] = quoting.longest
    for name, limit in limits.items():
        if spans.least > limit:
            raise OptionError(f"{name}={limit} is too few: the shortest quote takes {spans.least} tokens. Allow more.")
    return spans


def last_question(messages: Messages) -> str:
    """Return what the user asked last."""
    return [turn.content for turn in merge_turns(messages) if turn.role == "user"][-1]


def _words_of(question: str) -> set[str]:
    """Return a question's words that are long enough to mean something."""
    return {word.lower() for word in re.findall(r"\w+", question) if len(word) >= _LONG_WORD}


def count_prompt_tokens(checkpoint: Checkpoint, prompt: Prompt) -> int:
    """Return how many tokens a prompt has, whether it fits or not."""
    check_caching(prompt.caching)
    return len(_plan(checkpoint, prompt))


def _plan(checkpoint: Checkpoint, prompt: Prompt, room: int | None = None) -> Plan:
    if isinstance(prompt.documents, str):
        raise PromptError("One string was given where a list of documents is wanted. Put it in a list: [text].")
    for index, document in enumerate(prompt.documents):
        check_text(document, f"Document {index}")
        if room is not None:
            checkpoint.tokenizer.check_length(document, room, f"Document {index}")
    parts = lay_out(
        prompt.messages,
        prompt.documents,
        caching=prompt.caching,
        known=prompt.known_documents,
        query_instruction=check_characters(prompt.query_instruction, "The query's instruction"),
    )
    return plan_prompt(parts, checkpoint.tokenizer)


def _report_overflow(where: str, found: int, room: int, truncate: bool) -> None:
    if not truncate:
        raise ContextOverflowError(
            f"{where} has {found:,} tokens; {room:,} fit into the model's window beside the prompt. Split it into "
            "passages, or pass truncate=True."
        )
    logger.warning("%s was cut from at least %d to %d tokens.", where, found, room)
