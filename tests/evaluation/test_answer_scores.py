"""Answer scores: SQuAD's normalisation and what F1 must always be."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grit_integrations.evaluation.answer_scores import contains, exact_match, normalise, token_f1

ANSWERS = st.lists(st.sampled_from(["the", "River", "river.", "old", "bank", "1790", "ü", "—"]), max_size=6).map(
    " ".join
)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The Normans", "normans"),
        ("an  apple, a\tday!", "apple day"),
        ("U.S.", "us"),
        ("$1,000.50", "100050"),
        ("anthem of Athens", "anthem of athens"),  # articles only as whole words
        ("“quoted”", "“quoted”"),  # punctuation is ASCII's, as in SQuAD's script
        ("the", ""),
    ],
)
def test_normalisation_is_that_of_squad(text: str, plain: str) -> None:
    assert normalise(text) == plain


def test_known_scores() -> None:
    assert exact_match("The river!", "River") == 1.0
    assert exact_match("rivers", "river") == 0.0
    assert token_f1("old river bank", "river") == pytest.approx(0.5)
    assert token_f1("river river", "river") == pytest.approx(2 / 3)  # a word counts as often as it stands there
    assert token_f1("hill", "river") == 0.0
    assert token_f1("", "river") == 0.0


@given(ANSWERS, ANSWERS)
@example("the", "")
def test_f1_is_symmetric_and_1_for_the_same_bag_of_words_alone(one: str, other: str) -> None:
    score = token_f1(one, other)
    assert 0.0 <= score <= 1.0
    assert score == token_f1(other, one)
    assert (score == 1.0) == (Counter(normalise(one).split()) == Counter(normalise(other).split()))
    assert exact_match(one, other) <= score


@given(ANSWERS, ANSWERS)
@example("the", "")
def test_an_equal_answer_contains_the_gold_one_and_one_that_contains_it_shares_its_words(one: str, gold: str) -> None:
    assert exact_match(one, gold) <= contains(one, gold)
    if contains(one, gold):
        assert not Counter(normalise(gold).split()) - Counter(normalise(one).split())


def test_an_answer_is_held_word_for_word() -> None:
    assert contains("It was built in 1790.", "1790") == 1.0
    assert contains("It has 17900 bricks.", "1790") == 0.0
    assert contains("The oil of whales", "oil of the whales") == 1.0
