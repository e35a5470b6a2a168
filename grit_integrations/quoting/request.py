"""A question whose answer is quoted: what may be quoted of its documents, and the job that finds the quote."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from grit_integrations.engine.generate_job import GenerateJob
from grit_integrations.engine.vectors import Unkept
from grit_integrations.errors import OptionError
from grit_integrations.quoting.constraint import SpanConstraint
from grit_integrations.quoting.graph import Region
from grit_integrations.quoting.nearest import all_runs, best_regions
from grit_integrations.quoting.search_job import QuoteSearchJob
from grit_integrations.quoting.spans import Spans, whole

if TYPE_CHECKING:
    from grit_integrations.engine.generate_job import ChunksJob
    from grit_integrations.engine.session import Session
    from grit_integrations.options import Decoding, Quoting
    from grit_integrations.prompts.requests import Prompt
    from grit_integrations.prompts.tokenizer import PromptTokenizer

_LONG_WORD = 4  # letters; shorter ones, such as "of" and "the", stand in every question


def check_quotable(prompt: Prompt) -> None:
    """Refuse a quote where there is nothing to quote from.

    Raises:
        OptionError: no document, or parts that the documents do not have.
    """
    if not prompt.documents:
        raise OptionError(
            "quote was asked for without any document to quote from. Pass documents=[text], or leave quote out."
        )
    quotable_regions(prompt)


def quoting_job(session: Session, prompt: Prompt, decoding: Decoding, quoting: Quoting, *, asked: float) -> ChunksJob:
    """Return the job that answers with a quote. Picking sentences embeds them, and waits for it.

    Raises:
        OptionError: the shortest word has more tokens than the answer may have.
        PromptError: there is no word to quote.
    """
    regions = _picked(session, prompt, quoting, quotable_regions(prompt))
    spans = quotable_spans(session.tokenizer, prompt, decoding, quoting, regions)
    engine, reuse = session.engine, session.cache.reuse(prompt.plan, prompt.caching)
    if quoting.method != "tokens":
        return QuoteSearchJob(engine, reuse, decoding, quoting, spans, asked=asked)
    constraint = SpanConstraint(spans, engine.decoder.end_ids, quoting)
    return GenerateJob(engine.decoder, reuse, decoding, asked=asked, constraint=constraint)


def quotable_regions(prompt: Prompt) -> list[Region]:
    """Return the parts of a prompt's documents that may be quoted.

    Raises:
        OptionError: parts that the documents do not have.
    """
    if prompt.quotable is None:
        return whole(prompt.documents)
    lengths = [len(document) for document in prompt.documents]
    parts = list(prompt.quotable)
    fits = len(parts) == len(lengths) and all(map(_is_part, parts, lengths))
    if not fits:
        raise OptionError(
            f"quotable={parts!r} does not fit documents of {lengths} characters. Give one (start, end) a document."
        )
    return [Region(index, start, end, end) for index, (start, end) in enumerate(parts)]


def _is_part(part: object, length: int) -> bool:
    """Whether a caller's `part` is the start and the end of a part of a text of `length` characters."""
    match part:
        case (int(start), int(end)):
            return 0 <= start <= end <= length
    return False


def quotable_spans(
    tokenizer: PromptTokenizer, prompt: Prompt, decoding: Decoding, quoting: Quoting, regions: Sequence[Region]
) -> Spans:
    """Return what may be quoted of `regions` of a prompt's documents.

    Raises:
        OptionError: the shortest word has more tokens than the answer may have.
        PromptError: there is no word to quote.
    """
    any_word = quoting.echo or quoting.method == "sentences"
    unwanted = set() if any_word else _words_of(prompt.question)
    spans = Spans(tokenizer, prompt.documents, regions=regions, stops=decoding.stop, unwanted=unwanted)
    limits = {"max_new_tokens": decoding.max_new_tokens}
    if quoting.method == "spans":
        limits["longest"] = quoting.longest
    for name, limit in limits.items():
        if spans.least > limit:
            raise OptionError(f"{name}={limit} is too few: the shortest quote takes {spans.least} tokens. Allow more.")
    return spans


def _picked(session: Session, prompt: Prompt, quoting: Quoting, regions: Sequence[Region]) -> Sequence[Region]:
    """Return the sentences that are picked before any is scored; the regions as they are if none are to be."""
    if quoting.sentences:
        return best_regions(
            Unkept(session),
            prompt.question,
            prompt.documents,
            regions,
            limit=quoting.sentences,
            length=quoting.neighbours,
            instruction=prompt.query_instruction,
        )
    return all_runs(prompt.documents, regions, quoting.neighbours) if quoting.method == "sentences" else regions


def _words_of(question: str) -> set[str]:
    """Return a question's words that are long enough to mean something."""
    return {word.lower() for word in re.findall(r"\w+", question) if len(word) >= _LONG_WORD}
