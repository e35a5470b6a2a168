"""Answers that need no language model: what a model's F1 has to be read beside.

A reader that picks a sentence and one that applies a rule to it are the two things that anybody could do instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from grit_integrations.evaluation.answer_scores import normalise
from grit_integrations.quoting.sentences import sentences

Picker = Callable[[str, Sequence[str]], int]

_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_DATE = re.compile(
    rf"(?:\d{{1,2}} )?(?:{_MONTHS})(?: \d{{1,2}})?(?:,? \d{{4}})?|\b(?:1\d{{3}}|20\d{{2}})s?\b"
    r"|\b\d{1,2}(?:st|nd|rd|th) century"
)
_AMOUNT = r"\d[\d,.]*\d|\d|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|hundreds|thousands|millions"
_NUMBER = re.compile(rf"[$€£]?\b(?:{_AMOUNT})\b(?: (?:hundred|thousand|million|billion|trillion|percent|per cent)|%)?")
_PART = r"(?:(?:[A-Z]\.)+|[A-Z][\w’'-]*)"
_NAME = re.compile(rf"\b{_PART}(?:(?: (?:of|the|de|von|van|al))? {_PART})*")
_PLACE = re.compile(rf"\b(?:in|at|near|from|to|into) (?:the )?({_NAME.pattern})")
_QUESTION = (
    (re.compile(r"\b(?:when|what (?:year|date|month|century|decade|day)|which (?:year|date|month|century))\b"), _DATE),
    (re.compile(r"\bhow (?:many|much|long|far|old|tall|large|big|high|often)\b|\bwhat (?:percent|number)"), _NUMBER),
    (re.compile(r"\bwhere\b|\bwhat (?:city|country|place|location)|\b(?:which|in what) (?:city|country)"), _PLACE),
    (re.compile(r"\bwho(?:se|m)?\b"), _NAME),
)
_LAST_WORDS = 3  # what a question of no known type is answered with, where no name is left


def passage_sentences(passage: str) -> list[str]:
    """Return the sentences of a passage; one without any is a sentence itself."""
    return [passage[start:end] for start, end in sentences(passage)] or [passage]


def by_shared_words(question: str, parts: Sequence[str]) -> int:
    """Return the sentence that shares most words with the question; the first of equals."""
    asked = set(normalise(question).split())
    return max(range(len(parts)), key=lambda index: len(asked & set(normalise(parts[index]).split())))


def rule_answer(question: str, passage: str) -> str:
    """Answer by the type of the question from the sentence that shares most words with it.

    When: a date or year. How many: a number. Where: a name behind "in" or "at". Who: a name. Anything else: a name. In
    each case the first that the question does not have itself; without one, the sentence's last words.

    >>> rule_answer("When was the mill built?", "It rains. The mill was built in 1790 by Ada Lovelace.")
    '1790'
    >>> rule_answer("Who built the mill?", "It rains. The mill was built in 1790 by Ada Lovelace.")
    'Ada Lovelace'
    """
    parts = passage_sentences(passage)
    sentence = parts[by_shared_words(question, parts)]
    lowered = question.lower()
    wanted = next((pattern for kind, pattern in _QUESTION if kind.search(lowered)), _NAME)
    asked = set(normalise(question).split())
    return _first_new(wanted, sentence, asked) or _first_new(_NAME, sentence, asked) or _last_words(sentence)


def _first_new(pattern: re.Pattern[str], sentence: str, asked: set[str]) -> str:
    """Return the first match that has a word which the question does not have."""
    for match in pattern.finditer(sentence):
        text = match[match.lastindex or 0]
        inside = match.start(match.lastindex or 0) > 0 or " " in text or text[0].isdigit()  # "It" opens a sentence
        if inside and not set(normalise(text).split()) <= asked:
            return text
    return ""


def _last_words(sentence: str) -> str:
    return " ".join(sentence.rstrip(".!?").split()[-_LAST_WORDS:])
