"""Sentences of a text, and runs of them, by place."""

from __future__ import annotations

import re

_LEAST_WORDS = 3  # "See below." answers nothing
_ABBREVIATIONS = (
    *("al", "approx", "ca", "cf", "co", "corp", "dept", "dr", "ed", "eds", "eq", "est", "ex", "fig", "figs"),
    *("gen", "gov", "inc", "jr", "lt", "ltd", "mr", "mrs", "ms", "mt", "no", "op", "p", "pp", "prof", "rep", "sec"),
    *("sen", "sgt", "sr", "st", "vol", "vs"),
)
# A run of marks is tried where it begins and nowhere else: a table of contents has thousands of dots in a row.
_END = re.compile(r"(?<![.!?])[.!?]++[\"'”’)\]]*+(?=\s)|\n\s*\n|\n(?=\s*+(?:[-*•]|\d++[.)]|#{1,6})\s)|(?<=\n)(?=#)")
_LAST_WORD = re.compile(r"(\S+)$")
_NEXT = re.compile(r"\s*+[\"'“‘(\[]*(\w|\S)")
_WORD = re.compile(r"\w+")
_HEADING = re.compile(r"\s*#{1,6} ")


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
