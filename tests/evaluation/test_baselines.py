"""Answers without a model, on sentences that can be read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grit_integrations.evaluation.baselines import by_shared_words, passage_sentences, rule_answer

PASSAGE = (
    "The mill stands by the river. In 1790 the mill was rebuilt by Ada Brook at Corvale. "
    "It cost 4,000 crowns and has three wheels."
)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("When was the mill rebuilt?", "1790"),
        ("In what year was the mill rebuilt?", "1790"),
        ("Who rebuilt the mill in 1790?", "Ada Brook"),
        ("Where was the mill rebuilt by Ada Brook?", "Corvale"),
        ("How many crowns did it cost?", "4,000"),
        ("How many wheels does it have and what did it cost?", "4,000"),
    ],
)
def test_rules_answer_by_the_type_of_the_question(question: str, answer: str) -> None:
    assert rule_answer(question, PASSAGE) == answer


def test_a_name_of_the_question_is_no_answer() -> None:
    assert rule_answer("Who met Ada Brook?", "At noon Ada Brook met Ben Hill.") == "Ben Hill"


def test_without_a_match_the_last_words_answer() -> None:
    assert rule_answer("What is it for?", "it grinds wheat and rye.") == "wheat and rye"


def test_most_shared_words_wins_and_the_first_of_equals() -> None:
    parts = passage_sentences(PASSAGE)
    assert len(parts) == 3
    assert by_shared_words("How many wheels has it?", parts) == 2
    assert by_shared_words("Why?", parts) == 0


@given(st.text(max_size=60), st.text(min_size=1, max_size=120).filter(str.strip))
def test_any_text_gets_an_answer_from_the_passage(question: str, passage: str) -> None:
    answer = rule_answer(question, passage)
    assert (
        set(answer.split())
        <= set(passage.replace(".", " ").replace("!", " ").replace("?", " ").split()) | set(passage.split())
        or answer in passage
    )
