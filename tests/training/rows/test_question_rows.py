"""Rows of the RAG stream: what is refused, and contexts cut around their answer."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grit_integrations.training.rows.question_rows import QuestionRow, cut_context, parse_question

ROW = {"question": "What pumps?", "context": "The heart pumps blood.", "answer": "heart"}


def test_reads_a_row() -> None:
    assert parse_question(ROW) == QuestionRow("What pumps?", "The heart pumps blood.", "heart")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": None}, '"question" must be text'),
        ({"context": "  "}, '"context" must be text'),
        ({"answer": "lung"}, '"answer" does not stand in "context": \'lung\''),
    ],
)
def test_says_what_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_question({**ROW, **change})
    with pytest.raises(ValueError, match='"answer" is missing'):
        parse_question({"question": "?", "context": "c"})
    with pytest.raises(ValueError, match="a row is an object, not a list"):
        parse_question([ROW])


sentences = st.lists(
    st.integers(3, 12).map(lambda count: " ".join(["Word", *["word"] * count]) + "."), min_size=1, max_size=12
)


@settings(deadline=None)
@given(sentences, st.integers(0, 11), st.integers(0, 400), st.integers())
def test_the_answer_always_stays(parts: list[str], at: int, longest: int, seed: int) -> None:
    at %= len(parts)
    parts[at] = parts[at].removesuffix(".") + " answer here."
    question = QuestionRow("Where?", " ".join(parts), "answer here")
    cut = cut_context(question, random.Random(seed), longest=longest)
    assert cut.answer in cut.context
    assert cut.context in question.context
    assert len(cut.context) <= max(longest, len(parts[at]))


def test_a_short_context_is_left_alone_and_zero_leaves_the_sentence() -> None:
    question = QuestionRow("What is it?", "It is a heart. It pumps the blood. It never rests.", "blood")
    assert cut_context(question, random.Random(0), longest=100) is question
    assert cut_context(question, random.Random(0), longest=0).context == "It pumps the blood."


def test_a_text_without_sentences_is_cut_around_the_answer() -> None:
    question = QuestionRow("What?", "a b " * 300 + "answer " + "c d " * 300, "answer")
    cut = cut_context(question, random.Random(0), longest=120)
    assert "answer" in cut.context
    assert len(cut.context) < 400
