"""Answer scores on cases small enough to check by eye."""

from __future__ import annotations

import pytest

from grit_integrations.prompts import rag_prompt
from grit_integrations.training.answers import (
    Question,
    as_question,
    by_embedding,
    by_shared_words,
    quote_share,
    sentences,
    token_f1,
    write_answer,
)
from grit_integrations.training.batches import PromptEncoder
from grit_integrations.training.data import Text
from grit_integrations.training.initial import load_model
from grit_integrations.training.tokenizer import load_tokenizer

from .conftest import Trained

PASSAGE = "The mill stands by the river. It was built in 1790! Who built it is unknown."


def ask(question: str, answer: str) -> Question:
    return as_question(Text((rag_prompt(question, [f"Mill {PASSAGE}"]), answer)))


def test_a_laid_out_question_comes_apart_again() -> None:
    found = ask("When?\n\nTell me.", "1790")
    assert found.context == f"Mill {PASSAGE}\n\nWhen?"  # a blank line in the question belongs to what stands before it
    assert ask("When was it built?", "1790").question == "When was it built?"


def test_quotes_count_when_they_hold_the_answer() -> None:
    questions = [ask("When was it built in years?", "1790"), ask("By what does the mill stand?", "the river")]
    assert sentences(PASSAGE)[1] == "It was built in 1790!"
    assert quote_share(questions, by_shared_words) == 1.0
    assert quote_share(questions, lambda question, parts: 0) == 0.5


def test_f1_ignores_case_articles_and_punctuation() -> None:
    assert token_f1("The River!", "river") == 1.0
    assert token_f1("old river bank", "river") == pytest.approx(0.5)
    assert token_f1("hill", "river") == 0.0


def test_the_toy_quotes_and_writes(trained: Trained) -> None:
    model = load_model(str(trained.result.model))
    encoder = PromptEncoder(load_tokenizer(trained.result.model))
    parts = ["It stands by the harbour.", "It is kept by a gardener.", "It is painted orange."]
    assert by_embedding(model, encoder)("the gardener", parts) == 1
    assert isinstance(write_answer(model, encoder, rag_prompt("When?", [PASSAGE])), str)
