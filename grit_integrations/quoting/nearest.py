"""The sentences of documents that answer a question best, by the model that found the documents.

A model as small as grit-mini cannot be trusted to write free text. Quoting needs only what it is good at, and what it
shows is always true to the source. No weights beyond those of the embedding are used. For quotes that the model reads
out word by word, see `Decoding.quote`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from grit_integrations.quoting.graph import Region
from grit_integrations.quoting.sentences import pieces, sentences
from grit_integrations.results import Quote

# Measured with grit-mini on SQuAD (dev) and SelQA, 250 questions each with four retrieved passages: share whose first
# quote holds the answer. One sentence: 71 and 63 %; with shared words: 78 and 73. Two sentences: 85 and 72; with shared
# words: 91 and 79. Three add length, not answers. Some of the questions were trained on: this compares settings only.
SENTENCES = 2
LEXICAL_WEIGHT = 0.6

_WORD = re.compile(r"\w+")
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be been but by can could did do does for from had has have he her his how i if in into is "
        "it its many may me more most much my no not of on one or our out over she so some than that the their them "
        "then there these they this to up us was we were what when where which who whom whose why will with would you "
        "your",
    )
)


class Embedder(Protocol):
    """What finds sentences: a `GritLM`."""

    def embed_queries(self, texts: Sequence[str], *, instruction: str | None = None) -> npt.NDArray[np.float32]:
        """Return (texts, dim) float32."""
        ...

    def embed_documents(self, texts: Sequence[str], *, truncate: bool = False) -> npt.NDArray[np.float32]:
        """Return (texts, dim) float32."""
        ...


def best_quotes(
    grit: Embedder,
    question: str,
    documents: Sequence[str],
    *,
    limit: int = 3,
    length: int = SENTENCES,
    instruction: str | None = None,
    lexical_weight: float = LEXICAL_WEIGHT,
) -> list[Quote]:
    """Return the pieces of `documents` that are nearest to `question`, best first; they do not overlap.

    Args:
        grit: embeds the question as a query and the pieces as documents.
        question: what is asked.
        documents: texts in any order; blank ones have nothing to quote.
        limit: at most this many quotes; equal ones count once, and pieces that only ask come last.
        length: sentences per quote; fewer where a paragraph or a document ends.
        instruction: what queries are for; the one that found the passages. By default the model's own.
        lexical_weight: how much the share of the question's words in a piece adds to its cosine similarity; rare words
            count more.

    Raises:
        EmptyTextError: the question is blank.
    """
    places: dict[str, tuple[int, int, int]] = {}  # of the first of equal pieces
    for index, document in enumerate(documents):
        for start, end in pieces(document, length):
            places.setdefault(document[start:end], (index, start, end))
    texts = list(places)
    query = _unit(grit.embed_queries([question], instruction=instruction))[0]
    if not texts:
        return []
    scores = _unit(grit.embed_documents(texts, truncate=True)) @ query
    if lexical_weight:
        scores = scores + lexical_weight * _overlaps(question, texts)
    asks = np.array([_only_asks(text) for text in texts])  # a textbook's own questions answer none
    chosen: list[Quote] = []
    for row in np.lexsort((-scores, asks)):
        document_index, start, end = places[texts[row]]
        taken = (quote for quote in chosen if quote.document == document_index)
        if len(chosen) < limit and all(end <= quote.start or quote.end <= start for quote in taken):
            chosen.append(Quote(texts[row], document_index, start, end, float(scores[row])))
    return chosen


def best_regions(
    grit: Embedder,
    question: str,
    documents: Sequence[str],
    regions: Sequence[Region],
    *,
    limit: int,
    length: int = 1,
    instruction: str | None = None,
) -> list[Region]:
    """Return the `limit` runs of `length` sentences of `regions` that are nearest to `question`, in the regions' order.

    Regions without any sentence, such as titles, are returned as they are if none has one.
    """
    texts = [documents[region.document][region.start : region.end] for region in regions]
    found = best_quotes(grit, question, texts, limit=limit, length=length, instruction=instruction)
    places = sorted((quote.document, quote.start, quote.end) for quote in found)
    return [_within(regions[index], start, end) for index, start, end in places] or list(regions)


def all_runs(documents: Sequence[str], regions: Sequence[Region], length: int) -> list[Region]:
    """Return every run of `length` sentences of `regions`; the regions as they are if none has a sentence."""
    texts = [documents[region.document][region.start : region.end] for region in regions]
    runs = [
        _within(region, start, end)
        for region, text in zip(regions, texts, strict=True)
        for start, end in pieces(text, length)
    ]
    return runs or list(regions)


def _within(region: Region, start: int, end: int) -> Region:
    return Region(region.document, region.start + start, region.start + end, region.start + end)


def _only_asks(text: str) -> bool:
    return all(text[start:end].endswith("?") for start, end in sentences(text))


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Normalise for models that are used with `normalize=False`."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = vectors / np.maximum(norms, 1e-12)
    return unit


def _overlaps(question: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return for each text the share of the question's words that it has, rare words weighing more, (texts,)."""
    words = [_stems(text) for text in texts]
    frequency = Counter(stem for stems in words for stem in stems)
    weights = {stem: math.log(1 + len(texts) / (1 + frequency[stem])) for stem in _stems(question)}
    total = sum(weights.values()) or 1.0
    shares = [sum(weight for stem, weight in weights.items() if stem in stems) / total for stems in words]
    return np.array(shares, dtype=np.float32)


def _stems(text: str) -> frozenset[str]:
    """Return the words of `text` that carry meaning, cut to what their inflected forms share."""
    words = (word.lower() for word in _WORD.findall(text))
    return frozenset(word[: max(4, len(word) - 2)] for word in words if word not in _COMMON)
