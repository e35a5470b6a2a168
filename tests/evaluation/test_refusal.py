"""Declining: which answers say that there is none, and what that is worth where there is one and where there is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from question_sets import PASSAGES, QUESTIONS

from grit_integrations.evaluation.answer_scores import token_f1
from grit_integrations.evaluation.phrases import NO_ANSWER
from grit_integrations.evaluation.refusal import no_answer_f1, refusal_shares, refuses

WORDS = st.lists(st.sampled_from(["I", "the", "mill", "1790", "was", "not", "said", "does", "know", "."]), max_size=8)


@pytest.mark.parametrize(
    "text",
    [
        NO_ANSWER,
        NO_ANSWER.lower().rstrip("."),
        f"{NO_ANSWER} It speaks of a bridge.",
        "",
        " \n",
        "I don't know.",
        "I don’t know who paid for the bridge.",
        "I'm sorry, but I cannot answer that from the passage.",
        "Sorry, I am unable to determine who paid for it.",
        "I do not have enough information to say who paid.",
        "The passage doesn't mention who paid for the bridge.",
        "The provided context does not explicitly state the year.",
        "Unfortunately, the text provided does not contain that.",
        "None of the documents mentions the payer.",
        "According to the passage, it is not specified.",
        "It does not say.",
        "Not mentioned in the text.",
        "The answer is not given.",
        "The year in which the orchard was planted is not stated in the passage.",
        "There is no information about the payer.",
        "There's no mention of it.",
        "Not enough information",
        "No answer",
        "This question cannot be answered from the text.",
        "Unknown.",
        "N/A",
    ],
)
def test_what_says_that_there_is_no_answer_is_a_refusal(text: str) -> None:
    assert refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "1790",
        "The mill was built in 1790. The passage does not say by whom.",
        "It does not burn oil.",
        "The mill does not grind rye.",
        "I know that it was Ada Brook.",
        "No one paid for it.",
        "No.",
        "The",
        "Not a bridge but a ford.",
        "Information technology",
        "Context is what surrounds a word.",
        "The unknown soldier",
        "It was not Ada Brook.",
        "Documents do not burn.",
        "Sodium (Na) and chlorine",
        *(answer for *_, answer in QUESTIONS if answer),
        *PASSAGES.values(),
    ],
)
def test_what_answers_is_none(text: str) -> None:
    assert not refuses(text)


def test_a_refusal_is_right_where_there_is_no_answer_and_nowhere_else() -> None:
    answers = {
        "unanswerable": [(NO_ANSWER, ""), ("Ada Brook", ""), ("I don't know", ""), ("1790", "")],
        "answerable": [("in 1790", "1790"), (NO_ANSWER, "cider")],
    }
    found = refusal_shares(answers, seed=0)
    assert (found["unanswerable questions"], found["answerable questions"]) == (4, 2)
    assert found["refused, unanswerable"]["value"] == found["refused, answerable"]["value"] == 0.5
    assert found["f1"]["value"] == pytest.approx((1 + 0 + 1 + 0 + 2 / 3 + 0) / 6)
    assert 0 <= found["f1"]["low"] < found["f1"]["value"] < found["f1"]["high"] <= 1


@given(WORDS.map(" ".join), st.sampled_from(["", "1790", "the mill", "not said"]))
def test_f1_is_that_of_the_words_unless_one_side_is_no_answer(text: str, gold: str) -> None:
    score = no_answer_f1(text, gold)
    if not gold:
        assert score == float(refuses(text))
    else:
        assert score == (0.0 if refuses(text) else token_f1(text, gold))
