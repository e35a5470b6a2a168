"""What the model is asked when it judges a passage, or puts a few in order.

The verdict's words are those of the GritLM reference (`scripts/AbsTaskRetrieval.py`), which has the query first. With
the passage first, a prompt begins as an answer from that passage does, so that both start from the same stored block;
the words behind it are ours. A checkpoint may have words of its own for it. Rankings are asked for in RankGPT's words
(Sun et al., arXiv 2304.09542), whose system turn is folded into the only user turn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from grit_integrations.errors import OptionError
from grit_integrations.prompts.formats import Cut, Embedded, Segment, followed_by, segments, with_words

if TYPE_CHECKING:
    from grit_integrations.options import Order
    from grit_integrations.prompts.formats import Part
    from grit_integrations.prompts.prompt_format import PromptFormat
    from grit_integrations.prompts.tokenizer import PromptTokenizer
    from grit_integrations.prompts.turns import Turns

_JUDGE = "Given a query and a passage, judge whether the passage is relevant to the query or not.\n\nQuery:"
_PASSAGE = "\nPassage:"
_VERDICT = "\n\nAnswer with yes if the passage is relevant to the query, and no otherwise."
_ASK = "Query: "
_VERDICT_BEHIND = "\n\nAnswer with yes if the prior passage is relevant to the query, and no otherwise."
_RANK = (
    "I will provide you with {count} passages, each indicated by number identifier []. Rank the passages based on "
    "their relevance to query: "
)
_ORDER = (
    ".\nRank the {count} passages above based on their relevance to the search query. The passages should be listed in "
    "descending order using identifiers. The most relevant passages should be listed first. The output format should "
    "be [] > [], e.g., [1] > [2]. Only response the ranking results, do not say any word or explain."
)


def verdict_parts(query: str, passage: str, *, order: Order, prompts: PromptFormat) -> list[Part]:
    """Return the prompt whose next token is yes or no, with a cut behind what several such prompts share.

    Args:
        query: what is asked.
        passage: what may answer it.
        order: `"query-first"` is the reference's prompt, which begins alike for all passages of a query.
            `"passage-first"` begins as answers do with `caching="prefix"`, `"passage-block"` as with `caching="doc"`:
            the passage is read by itself, bidirectionally.
        prompts: what the model's prompts look like; its own words are used in the order that they have.
    """
    verdict = prompts.turns.asking(prompts.verdict.answer)
    if prompts.verdict.serves(order):
        return [*_own_words(query, passage, order=order, prompts=prompts), *verdict]
    turns = prompts.turns
    asked, judged = Segment(query, content=True), Segment(passage, content=True)
    if order == "query-first":
        # Each with its space: only so the ids are those of the reference's prompt, which is one string.
        asked, judged = Segment(f" {query}", content=True), Segment(f" {passage}", content=True)
        header: list[Part] = [*turns.opening(_JUDGE), asked, Segment(_PASSAGE), Cut()]
        return [*header, judged, Segment(_VERDICT), *verdict]
    if order == "passage-block":
        read: list[Part] = [Embedded(passage), *with_words(turns.lead("block", "user"), _ASK)]
    else:
        read = [*followed_by(turns.opening(), passage), Cut(document=True), Segment(f"\n\n{_ASK}")]
    return [*read, asked, Segment(_VERDICT_BEHIND), *verdict]


def _own_words(query: str, passage: str, *, order: Order, prompts: PromptFormat) -> list[Part]:
    """Return the user's turn in a checkpoint's own words, in the order that they have."""
    before, first, between, _, behind = re.split(r"(\{query\}|\{passage\})", prompts.verdict.prompt)
    turns, rest = prompts.turns, segments(behind)
    if order == "passage-block":
        words = with_words(turns.lead("block", "user"), between.lstrip())
        return [Embedded(passage), *followed_by(words, query), *rest]
    if first == "{passage}":
        start = followed_by(turns.opening(before), passage)
        return [*start, Cut(document=True), *followed_by(segments(between), query), *rest]
    *middle, judged = followed_by(segments(between), passage)
    return [*followed_by(turns.opening(before), query), *middle, Cut(), judged, *rest]


def ranking_parts(query: str, passages: Sequence[str], *, turns: Turns) -> list[Part]:
    """Return the prompt whose answer is an order such as `[2] > [1] > [3]`; `turns` says how it is written."""
    count = len(passages)
    parts: list[Part] = [*turns.opening(_RANK.format(count=count)), Segment(query, content=True)]
    parts.append(Segment(".\n"))
    for number, passage in enumerate(passages, start=1):
        parts += [Segment(f"\n[{number}] "), Segment(passage, content=True)]
    parts += [Segment("\n\nSearch Query: "), Segment(query, content=True), Segment(_ORDER.format(count=count))]
    return [*parts, *turns.asking()]


def verdict_ids(tokenizer: PromptTokenizer) -> tuple[int, int]:
    """Return the ids of yes and no, which stand behind what is put into the assistant's mouth.

    Raises:
        OptionError: the tokenizer has no single token for one of them.
    """
    words = (tokenizer.format.verdict.yes, tokenizer.format.verdict.no)
    found = tokenizer.encode_texts(words)
    for word, ids in zip(words, found, strict=True):
        if len(ids) != 1:
            raise OptionError(
                f"This model's tokenizer spells {word!r} with {len(ids)} tokens, and a verdict is one. Rerank with "
                'method="embedding" or "listwise".'
            )
    return found[0][0], found[1][0]
