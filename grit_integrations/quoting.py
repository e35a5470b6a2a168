"""Answer with the passages' own words: the pieces nearest to the question, by the model that found the passages.

A model as small as grit-mini cannot be trusted to write free text. Quoting needs only what it is good at, and what it
shows is always true to the source. No weights beyond those of the embedding are used.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from grit_integrations.model import GritLM

# Measured with grit-mini on SQuAD (dev) and SelQA, 250 questions each with four retrieved passages: share whose first
# quote holds the answer. One sentence: 71 and 63 %; with shared words: 78 and 73. Two sentences: 85 and 72; with shared
# words: 91 and 79. Three add length, not answers. Some of the questions were trained on: this compares settings only.
SENTENCES = 2
LEXICAL_WEIGHT = 0.6

_LEAST_WORDS = 3  # "See below." answers nothing
_ABBREVIATIONS = (
    *("al", "approx", "ca", "cf", "co", "corp", "dept", "dr", "ed", "eds", "eq", "est", "ex", "fig", "figs"),
    *("gen", "gov", "inc", "jr", "lt", "ltd", "mr", "mrs", "ms", "mt", "no", "op", "p", "pp", "prof", "rep", "sec"),
    *("sen", "sgt", "sr", "st", "vol", "vs"),
)
_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s)|\n\s*\n|\n(?=\s*(?:[-*•]|\d+[.)]|#{1,6})\s)|(?<=\n)(?=#)")
_LAST_WORD = re.compile(r"(\S+)$")
_NEXT = re.compile(r"\s*[\"'“‘(\[]*(\w|\S)")
_WORD = re.compile(r"\w+")
_HEADING = re.compile(r"\s*#{1,6} ")
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be been but by can could did do does for from had has have he her his how i if in into is "
        "it its many may me more most much my no not of on one or our out over she so some than that the their them "
        "then there these they this to up us was we were what when where which who whom whose why will with would you "
        "your",
    )
)


@dataclass(frozen=True, slots=True)
class Quote:
    """Sentences of a passage, `passages[passage][start:end] == text`, and how near they are to the question."""

    text: str
    passage: int
    start: int
    end: int
    score: float


def best_quotes(
    grit: GritLM,
    question: str,
    passages: Sequence[str],
    *,
    limit: int = 3,
    length: int = SENTENCES,
    instruction: str = "",
    lexical_weight: float = LEXICAL_WEIGHT,
) -> list[Quote]:
    """Return the pieces of `passages` that are nearest to `question`, best first; they do not overlap.

    Args:
        grit: embeds the question as a query and the pieces as documents.
        question: what is asked.
        passages: texts in any order; blank ones have nothing to quote.
        limit: at most so many quotes; equal ones count once, and pieces that only ask come last.
        length: sentences per quote; fewer where a paragraph or a passage ends.
        instruction: what queries are for; the one that found the passages.
        lexical_weight: how much the share of the question's words in a piece adds to its cosine similarity; rare words
            count more.

    Raises:
        EmptyTextError: the question is blank.
    """
    places: dict[str, tuple[int, int, int]] = {}  # of the first of equal pieces
    for index, passage in enumerate(passages):
        for start, end in pieces(passage, length):
            places.setdefault(passage[start:end], (index, start, end))
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
        passage_index, start, end = places[texts[row]]
        taken = (quote for quote in chosen if quote.passage == passage_index)
        if len(chosen) < limit and all(end <= quote.start or quote.end <= start for quote in taken):
            chosen.append(Quote(texts[row], passage_index, start, end, float(scores[row])))
    return chosen


def pieces(text: str, length: int) -> list[tuple[int, int]]:
    """Return where each run of `length` neighbouring sentences starts and ends; headings end a run.

    >>> text = "# Heart\\n\\nIt pumps the blood. It never rests. It is a muscle."
    >>> [text[start:end] for start, end in pieces(text, 2)]
    ['It pumps the blood. It never rests.', 'It never rests. It is a muscle.']
    """
    runs: list[list[tuple[int, int]]] = []
    for start, end in sentences(text):
        if runs and not text[runs[-1][-1][1] : start].strip():
            runs[-1].append((start, end))
        else:
            runs.append([(start, end)])
    return [
        (run[first][0], run[min(first + length, len(run)) - 1][1])
        for run in runs
        for first in range(max(1, len(run) - length + 1))
    ]


def sentences(text: str) -> list[tuple[int, int]]:
    """Return where each sentence of `text` starts and ends, without the white space around it.

    Paragraphs, list items and headings end a sentence; headings themselves and scraps of fewer than three words are
    left out.

    >>> text = "# Tides\\n\\nDr. Smith saw 2.5 ft. of water. The U.S. coast has tides."
    >>> [text[start:end] for start, end in sentences(text)]
    ['Dr. Smith saw 2.5 ft. of water.', 'The U.S. coast has tides.']
    """
    spans, start = [], 0
    for match in _END.finditer(text):
        if match[0].strip() and not _ends_sentence(text, match):
            continue
        spans.append((start, match.end()))
        start = match.end()
    spans.append((start, len(text)))
    stripped = (_strip(text, *span) for span in spans)
    return [
        (start, end)
        for start, end in stripped
        if len(_WORD.findall(text, start, end)) >= _LEAST_WORDS and not _HEADING.match(text, start, end)
    ]


def _only_asks(text: str) -> bool:
    return all(text[start:end].endswith("?") for start, end in sentences(text))


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    """Tell a full stop from the dot of an abbreviation or an initial."""
    following = _NEXT.match(text, match.end())
    if following and following[1].islower():
        return False
    if not match[0].startswith("."):
        return True
    before = _LAST_WORD.search(text, max(0, match.start() - 40), match.start())
    word = before[1].lstrip("\"'“‘([").lower() if before else ""
    return not (word in _ABBREVIATIONS or re.fullmatch(r"[a-z]|(?:[a-z]\.)+[a-z]", word))


def _strip(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), end - (len(piece) - len(piece.rstrip()))


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
