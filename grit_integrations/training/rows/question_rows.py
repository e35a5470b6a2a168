"""Rows of the RAG stream: a text, the questions asked about it, and the words that answer them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from grit_integrations.evaluation.phrases import NO_ANSWER
from grit_integrations.quoting.sentences import sentences

_AROUND = 150  # characters before an answer, at most, where no sentence can be told
_LONGEST_SENTENCE = 600  # characters; what is longer is a list or a table without full stops
_SENTENCE_WORDS = range(5, 41)  # of a sentence that answers: fewer are a caption, more are an enumeration
_POINTING = frozenset({"he", "it", "its", "she", "that", "their", "these", "they", "this", "those"})


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, and the words of its text that answer it; no words where the text does not say.

    Attributes:
        question: as the prompt has it.
        answer: words of the context, or empty.
        sentence: what is to be said instead of the words alone, if anything.
    """

    question: str
    answer: str
    sentence: str = ""

    @property
    def said(self) -> str:
        """What the model is to say."""
        return self.sentence or self.answer or NO_ANSWER


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """A context with the questions asked about it, and texts that look alike and may be retrieved beside it."""

    context: str
    asked: tuple[Asked, ...]
    others: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """The length in characters: others are used now and then, and do not count."""
        return len(self.context) + sum(len(each.question) + len(each.said) for each in self.asked)


def parse_question(row: Any) -> QuestionRow:
    """Check and read `{"context": text, "questions": [{"question": text, "answer": text}], "others": [text]}`.

    An answer stands in the context word for word, or is empty: then the context does not say. `others` is optional.

    Raises:
        ValueError: says what is wrong with the row.
    """
    if not isinstance(row, dict):
        raise ValueError(f"a row is an object, not a {type(row).__name__}")
    for name in ("context", "questions"):
        if name not in row:
            raise ValueError(f'"{name}" is missing')
    context, asked, others = row["context"], row["questions"], row.get("others", [])
    _check_text("context", context)
    if not (isinstance(asked, list) and asked):
        raise ValueError('"questions" must be a list that is not empty')
    if not isinstance(others, list):
        raise ValueError('"others" must be a list of texts')
    for text in others:
        _check_text("others", text)
    return QuestionRow(context, tuple(_asked(each, context) for each in asked), tuple(others))


def _asked(each: Any, context: str) -> Asked:
    if not isinstance(each, dict):
        raise ValueError(f"a question is an object, not a {type(each).__name__}")
    for name in ("question", "answer"):
        if name not in each:
            raise ValueError(f'"{name}" is missing')
    question, answer = each["question"], each["answer"]
    _check_text("question", question)
    if not isinstance(answer, str):
        raise ValueError('"answer" must be text; it is empty where the context does not say')
    if answer.strip() and answer not in context:
        raise ValueError(f'"answer" does not stand in "context": {answer[:60]!r}')
    return Asked(question, answer if answer.strip() else "")


def _check_text(name: str, value: Any) -> None:
    if not (isinstance(value, str) and value.strip()):
        raise ValueError(f'"{name}" must be text that is not blank')


def answering_sentence(context: str, answer: str) -> str:
    """Return the first sentence of `context` with the answer that can be said by itself; empty if none can.

    The first sentence of a text has its title in front of it, and one that begins with a pronoun needs the one before.

    >>> answering_sentence("The human heart pumps blood. It never rests, not even at night.", "night")
    ''
    >>> answering_sentence("It never rests, not even at night. The human heart pumps blood.", "blood")
    'The human heart pumps blood.'
    """
    found = (context[start:end].strip() for start, end in sentences(context)[1:])
    return next((text for text in found if answer in text and _stands_alone(text)), "")


def is_sentence(answer: str) -> bool:
    """Tell whether an answer is a whole sentence by itself, as human answers sometimes are."""
    return len(answer.split()) >= _SENTENCE_WORDS.start and answer.endswith((".", "!"))


def _stands_alone(text: str) -> bool:
    words = text.split()
    return len(words) in _SENTENCE_WORDS and words[0].lower() not in _POINTING and text[-1] in ".!?"


def cut_context(row: QuestionRow, rng: random.Random, *, longest: int) -> QuestionRow:
    """Return the row with whole sentences of its context around one answer, and the questions that still fit.

    Args:
        row: left as it is if its context is short enough, or nothing in it is an answer.
        rng: draws around which answer, and on which side the context grows.
        longest: characters; the sentence with the answer is kept even if it is longer, up to 600.
    """
    answers = [each.answer for each in row.asked if each.answer]
    if len(row.context) <= longest or not answers:
        return row
    context = _cut(row.context, rng.choice(answers), rng, longest)
    return replace(row, context=context, asked=tuple(each for each in row.asked if each.answer in context))


def _cut(text: str, answer: str, rng: random.Random, longest: int) -> str:
    spans = sentences(text)
    at = next((i for i, (start, end) in enumerate(spans) if answer in text[start:end]), None)
    if at is None or spans[at][1] - spans[at][0] > max(longest, _LONGEST_SENTENCE):
        return _surroundings(text, answer, rng, longest)
    start, end = _grown(spans, at, rng, longest)
    return text[start:end]


def _grown(spans: Sequence[tuple[int, int]], at: int, rng: random.Random, longest: int) -> tuple[int, int]:
    """Return where a run of sentences around number `at` starts and ends, grown to a random side while it fits."""
    low = high = at
    while True:
        grown = [(low - 1, high)] if low > 0 else []
        grown += [(low, high + 1)] if high + 1 < len(spans) else []
        fitting = [(a, b) for a, b in grown if spans[b][1] - spans[a][0] <= longest]
        if not fitting:
            return spans[low][0], spans[high][1]
        low, high = rng.choice(fitting)


def _surroundings(text: str, answer: str, rng: random.Random, longest: int) -> str:
    place = text.index(answer)
    start = text.rfind(" ", 0, max(0, place - rng.randrange(_AROUND)) + 1) + 1
    return text[start : max(start + max(longest, _AROUND), place + len(answer))]
