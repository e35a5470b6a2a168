"""The demo's questions fit its texts, and which answers are right."""

from __future__ import annotations

from pathlib import Path

import pytest
from demo_corpus import CORPUS

from grit_integrations import IngestError
from grit_integrations.cli.demo.corpus import DemoQuestion, find_corpus, read_questions


def test_corpus_and_questions() -> None:
    assert find_corpus() == CORPUS
    questions = read_questions(CORPUS)
    assert len(questions) >= 12
    for question in questions:
        assert all(question.answer in (CORPUS / source).read_text() for source in question.sources), question
    assert len({question.sources[0].split("/")[1] for question in questions}) == 5  # every chapter and both manuals
    attribution = (CORPUS / "ATTRIBUTION.md").read_text()
    assert all(folder.name in attribution for folder in CORPUS.iterdir() if folder.is_dir())


def test_no_questions(small: Path) -> None:
    (small / "questions.json").write_text("[]")
    with pytest.raises(IngestError, match="has no questions"):
        read_questions(small)


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("It was GENERAL\nSanta Anna's army.", True),
        ("santa anna", True),
        ("General Santa Anna", True),
        ("Anna", False),  # less than half
        ("", False),
        ("General Houston", False),
    ],
)
def test_what_is_a_right_answer(said: str, right: bool) -> None:
    assert DemoQuestion("Who?", ("texas.md",), "General Santa Anna").is_answered(said) == right


def test_three_characters_of_an_answer_are_not_enough() -> None:
    assert not DemoQuestion("How many?", ("a.md",), "1,000").is_answered("000")
    assert DemoQuestion("What?", ("a.md",), "GPS").is_answered("the GPS")
