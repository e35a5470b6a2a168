"""One framework's answer to one question: what it gave, whether it is right, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from grit_integrations.cli.demo.corpus import DemoQuestion
from grit_integrations.cli.demo.pipelines import Pipeline
from grit_integrations.ingest import Hit
from grit_integrations.results import Quote


@dataclass(frozen=True, slots=True)
class AnswerTimes:
    """Seconds from the question to the reranked passages, to the first token, and to the end."""

    retrieve: float
    first_token: float
    total: float


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """What one framework gave: its passages, its answer, whether they are right, and how long it took."""

    hits: list[Hit]
    text: str
    quotes: list[Quote]
    rank: int | None  # of the first passage from a right source, from 1
    right: bool  # the text has the expected words
    times: AnswerTimes

    def found(self, first: int) -> bool:
        """Whether a right source is among the first passages."""
        return self.rank is not None and self.rank <= first


def ask(pipeline: Pipeline, question: DemoQuestion, corpus: Path, *, on_text: Callable[[str], None]) -> JudgedAnswer:
    """Ask one framework; text is handed on as it is generated."""
    hits: list[Hit] = []
    pieces: list[str] = []
    quotes: list[Quote] = []
    marks: list[float] = []
    began = time.perf_counter()
    for piece in pipeline(question.question):
        marks.append(time.perf_counter() - began)
        if isinstance(piece, Quote):
            quotes.append(piece)
        elif isinstance(piece, str):
            pieces.append(piece)
            on_text(piece)
        else:
            hits = piece
    total = time.perf_counter() - began
    times = AnswerTimes(marks[0], marks[1] if len(marks) > 1 else total, total)
    text = "".join(pieces)
    return JudgedAnswer(hits, text, quotes, _rank(hits, question, corpus), question.is_answered(text), times)


def relative_source(source: str, corpus: Path) -> str:
    """Return a source as `questions.json` names it; one elsewhere stays as it is."""
    path = Path(source)
    return path.relative_to(corpus).as_posix() if path.is_relative_to(corpus) else source


def _rank(hits: Sequence[Hit], question: DemoQuestion, corpus: Path) -> int | None:
    ranks = (n for n, hit in enumerate(hits, 1) if relative_source(hit.source, corpus) in question.sources)
    return next(ranks, None)
