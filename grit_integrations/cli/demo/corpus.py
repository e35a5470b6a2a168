"""The demo's texts, and its questions: what is asked, which files answer it, and which answers are right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grit_integrations.cli.wrapped_text import one_line
from grit_integrations.errors import IngestError
from grit_integrations.ingest import read_file

_LEAST = 4  # characters of an answer that is a part of what is expected


@dataclass(frozen=True, slots=True)
class DemoQuestion:
    """A question, the files that answer it, and words that a right answer has."""

    question: str
    sources: tuple[str, ...]
    answer: str

    def is_answered(self, text: str) -> bool:
        """Whether `text` has the expected words, or is at least half of them and four characters; case is ignored.

        >>> question = DemoQuestion("Which general laid siege to the Alamo?", ("texas.md",), "General Santa Anna")
        >>> [question.is_answered(text) for text in ("It was general Santa Anna.", "Santa Anna", "Anna", "Houston")]
        [True, True, False, False]
        """
        said, expected = _plain(text), _plain(self.answer)
        return expected in said or (len(said) >= max(_LEAST, len(expected) / 2) and said in expected)


def find_corpus() -> Path:
    """Return the demo's texts: in the package when it is installed, beside it in the repository.

    Raises:
        IngestError: they are in neither place.
    """
    package = Path(__file__).resolve().parents[2]
    for place in (package / "corpus", package.parent / "examples" / "corpus"):
        if (place / "questions.json").exists():
            return place
    raise IngestError("The demo's texts are not installed. Run it in a clone of the repository, or give --corpus DIR.")


def read_questions(corpus: Path) -> list[DemoQuestion]:
    """Return the questions of a corpus, every one with its expected words in each of its sources.

    Raises:
        IngestError: no `questions.json`, not of the form that `examples/corpus` has, or a source without the words.
    """
    path = corpus / "questions.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        questions = [DemoQuestion(row["question"], tuple(row["sources"]), str(row["answer"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IngestError(f"{path} cannot be read as questions ({type(error).__name__}: {error}).") from error
    if not questions:
        raise IngestError(f"{path} has no questions. Give it at least one.")
    _check_answers(questions, corpus)
    return questions


def _check_answers(questions: Sequence[DemoQuestion], corpus: Path) -> None:
    for number, question in enumerate(questions, 1):
        name = f"Question {number} ({question.question})"
        expected = _plain(question.answer)
        if not (expected and question.sources):
            raise IngestError(f"{name} needs at least one source and an answer that is not blank.")
        for source in question.sources:
            try:
                pages = read_file(corpus / source)
            except IngestError as error:
                raise IngestError(f"{name} names the source {source}: {error}.") from error
            if not any(expected in _plain(page.page_content) for page in pages):
                raise IngestError(
                    f"{name} expects {question.answer!r}, which {source} does not have. Correct the answer or the "
                    "source in questions.json."
                )


def _plain(text: str) -> str:
    return one_line(text).casefold()
