"""Rows of the RAG stream: a question, the text that answers it, and the words of the answer in it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from grit_integrations.quoting.sentences import sentences

_AROUND = 150  # characters before an answer, at most, where no sentence can be told
_LONGEST_SENTENCE = 600  # characters; what is longer is a list or a table without full stops


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """A question and a context that holds the answer word for word."""

    question: str
    context: str
    answer: str

    @property
    def size(self) -> int:
        """The length in characters."""
        return len(self.question) + len(self.context) + len(self.answer)


def parse_question(row: Any) -> QuestionRow:
    """Check and read a row of the RAG stream: `{"question": text, "context": text, "answer": text}`.

    Raises:
        ValueError: says what is wrong with the row.
    """
    if not isinstance(row, dict):
        raise ValueError(f"a row is an object, not a {type(row).__name__}")
    for name in ("question", "context", "answer"):
        if name not in row:
            raise ValueError(f'"{name}" is missing')
        if not (isinstance(row[name], str) and row[name].strip()):
            raise ValueError(f'"{name}" must be text that is not blank')
    if row["answer"] not in row["context"]:
        raise ValueError(f'"answer" does not stand in "context": {row["answer"][:60]!r}')
    return QuestionRow(row["question"], row["context"], row["answer"])


def cut_context(question: QuestionRow, rng: random.Random, *, longest: int) -> QuestionRow:
    """Return the question with whole sentences of its context around the answer.

    Args:
        question: left as it is if its context is short enough.
        rng: draws on which side the context grows.
        longest: characters; the sentence with the answer is kept even if it is longer, up to 600.
    """
    text = question.context
    if len(text) <= longest:
        return question
    spans = sentences(text)
    at = next((i for i, (start, end) in enumerate(spans) if question.answer in text[start:end]), None)
    if at is None or spans[at][1] - spans[at][0] > max(longest, _LONGEST_SENTENCE):
        return replace(question, context=_surroundings(question, rng, longest))
    start, end = _grown(spans, at, rng, longest)
    return replace(question, context=text[start:end])


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


def _surroundings(question: QuestionRow, rng: random.Random, longest: int) -> str:
    text, place = question.context, question.context.index(question.answer)
    start = text.rfind(" ", 0, max(0, place - rng.randrange(_AROUND)) + 1) + 1
    return text[start : max(start + max(longest, _AROUND), place + len(question.answer))]
