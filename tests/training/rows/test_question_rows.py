"""Rows of the RAG stream: what is refused, contexts cut around their answers, and answers in sentences."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grit_integrations.evaluation.phrases import NO_ANSWER
from grit_integrations.training.rows.question_rows import (
    Asked,
    QuestionRow,
    answering_sentence,
    cut_context,
    is_sentence,
    parse_question,
)

ASKED = {"question": "What pumps?", "answer": "heart"}
ROW = {"context": "The heart pumps blood.", "questions": [ASKED, {"question": "What thinks?", "answer": " "}]}


def test_reads_a_row() -> None:
    asked = (Asked("What pumps?", "heart"), Asked("What thinks?", ""))
    assert parse_question(ROW) == QuestionRow("The heart pumps blood.", asked)
    assert [each.said for each in asked] == ["heart", NO_ANSWER]
    assert parse_question({**ROW, "others": ["Lungs breathe."]}).others == ("Lungs breathe.",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": "  "}, '"context" must be text'),
        ({"questions": []}, '"questions" must be a list that is not empty'),
        ({"questions": {"question": "?"}}, '"questions" must be a list'),
        ({"questions": ["?"]}, "a question is an object, not a str"),
        ({"questions": [{"question": "?"}]}, '"answer" is missing'),
        ({"questions": [{**ASKED, "question": None}]}, '"question" must be text'),
        ({"questions": [{**ASKED, "answer": None}]}, '"answer" must be text; it is empty where'),
        ({"questions": [{**ASKED, "answer": "lung"}]}, '"answer" does not stand in "context": \'lung\''),
        ({"others": "Lungs."}, '"others" must be a list'),
        ({"others": [" "]}, '"others" must be text'),
    ],
)
def test_says_what_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_question({**ROW, **change})


def test_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match='"questions" is missing'):
        parse_question({"context": "c"})
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
    asked = (Asked("Where?", "answer here"), Asked("Who?", "Word"), Asked("Why?", ""))
    row = QuestionRow(" ".join(parts), asked)
    cut = cut_context(row, random.Random(seed), longest=longest)
    assert cut.asked
    assert asked[2] in cut.asked  # what has no answer has none in a part either
    assert all(each.answer in cut.context for each in cut.asked)
    assert cut.context in row.context
    assert len(cut.context) <= max(longest, *map(len, parts))


def test_a_short_context_is_left_alone_and_zero_leaves_the_sentence() -> None:
    question = QuestionRow("It is a heart. It pumps the blood. It never rests.", (Asked("What is it?", "blood"),))
    assert cut_context(question, random.Random(0), longest=100) is question
    assert cut_context(question, random.Random(0), longest=0).context == "It pumps the blood."


def test_a_text_without_sentences_is_cut_around_the_answer() -> None:
    question = QuestionRow("a b " * 300 + "answer " + "c d " * 300, (Asked("What?", "answer"),))
    cut = cut_context(question, random.Random(0), longest=120)
    assert "answer" in cut.context
    assert len(cut.context) < 400


def test_a_sentence_answers_when_it_can_be_said_alone() -> None:
    context = "Hearts The heart is a muscle of the body. It pumps the blood. Every heart pumps blood all day. Blood."
    assert answering_sentence(context, "blood") == "Every heart pumps blood all day."
    assert answering_sentence(context, "muscle") == ""  # the title stands in front of it
    assert answering_sentence(context, "lungs") == ""
    assert is_sentence("Every heart pumps blood all day.")
    assert not is_sentence("blood all day")
    assert not is_sentence("")
