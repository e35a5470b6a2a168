"""All parts of an evaluation, one after the other; what each gives is complete before the next begins."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from grit_integrations.errors import DataError
from grit_integrations.evaluation.answer_figures import answer_figures, answer_records, answer_tables
from grit_integrations.evaluation.arms import FREE, Arm, ArmRunner, all_arms
from grit_integrations.evaluation.intervals import RESAMPLES
from grit_integrations.evaluation.perplexity import perplexity_figures, perplexity_table
from grit_integrations.evaluation.refusal import refusal_figures, refusal_table
from grit_integrations.evaluation.report import FORMAT, Table, described, environment, joined
from grit_integrations.evaluation.retrieval import (
    BM25,
    bm25_ranking,
    model_rankings,
    random_ranking,
    ranking_records,
    retrieval_table,
    set_figures,
)
from grit_integrations.evaluation.scope import EvaluationOptions, EvaluationPart
from grit_integrations.evaluation.sets import EvaluationSets
from grit_integrations.evaluation.triples import triple_figures, triple_table
from grit_integrations.model import GritLM
from grit_integrations.progress import progress_bar

Record = dict[str, Any]
Measured = tuple[dict[str, Any], Iterable[Table], Iterable[Record]]  # figures, tables, records


@dataclass(frozen=True, slots=True)
class PartResult:
    """What one part gives.

    Attributes:
        part: its name.
        figures: for the JSON file; shares in 0..1, with 95 % intervals.
        tables: the same for people.
        records: one per question and system.
        seconds: that it took.
    """

    part: EvaluationPart
    figures: dict[str, Any]
    tables: tuple[Table, ...]
    records: tuple[Record, ...]
    seconds: float


def evaluate(
    grit: GritLM, sets: EvaluationSets, options: EvaluationOptions, *, progress: bool | None = None
) -> Iterator[PartResult]:
    """Measure a model part by part, through the methods that users call.

    Args:
        grit: the model; its own caching mode and store are neither used nor changed.
        sets: what `sets.open_sets` read with the same options.
        options: what to measure.
        progress: show bars; `None` shows them on a terminal only.

    Raises:
        DataError: sets without the questions that a part needs.
        GritError: what the model refuses.
    """
    run = _Run(grit, sets, options, progress=progress)
    run.check()
    return run.parts()


class _Run:
    """The state of one evaluation: the model, what was answered so far, and the bar that shows."""

    def __init__(
        self, grit: GritLM, sets: EvaluationSets, options: EvaluationOptions, *, progress: bool | None
    ) -> None:
        self.grit = grit.with_options(caching="off")
        self.sets = sets
        self.options = options
        self.answerable = self._runners("answerable")
        self.unanswerable = self._runners("unanswerable")
        self._progress = progress
        self._bar: Any = None

    def check(self) -> None:
        """Raise `DataError` for a part that would find nothing to ask."""
        needs = {"answers": {"answerable"}, "refusal": {"answerable", "unanswerable"}}
        held = {kind for kind in ("answerable", "unanswerable") if getattr(self, kind)}
        names = joined([found.name for found in self.sets.questions])
        for part in self.options.parts:
            for kind in sorted(needs.get(part, set()) - held):
                raise DataError(
                    f"The part {part} needs {kind} questions and the sets have none: {names}. Name others with "
                    "--answer-sets, or leave the part out with --parts."
                )

    def parts(self) -> Iterator[PartResult]:
        """Measure and yield each part."""
        self.grit.load()
        for part in self.options.parts:
            began = time.perf_counter()
            figures, tables, records = getattr(self, part)()
            yield PartResult(part, figures, tuple(tables), tuple(records), round(time.perf_counter() - began, 3))

    def retrieval(self) -> Measured:
        """Rank every retrieval set."""
        figures, records = {}, []
        with self._showing("Retrieval", sum(len(s.passages) + 2 * len(s.queries) for s in self.sets.retrieval), "text"):
            for found in self.sets.retrieval:
                rankings = [random_ranking(found), bm25_ranking(found)]
                rankings += model_rankings(self.grit, found, advance=self._advance)
                figures[found.name] = set_figures(found, rankings, seed=self.options.seed)
                records += list(ranking_records(found, rankings))
        return figures, [retrieval_table(figures)], records

    def answers(self) -> Measured:
        """Answer every answerable question in every arm."""
        arms = all_arms(self.options)
        total = sum(len(a.found.passages) + len(a.found.questions) * len(arms) for a in self.answerable)
        with self._showing("Answers", total, "answer"):
            figures = {a.found.name: answer_figures(a, arms, seed=self.options.seed) for a in self.answerable}
        records = (record for a in self.answerable for record in answer_records("answers", a, arms))
        return figures, answer_tables(figures), records

    def refusal(self) -> Measured:
        """Ask what the passage does not answer, beside what it does."""
        methods = 1 + len(self.options.quotes)
        with self._showing("Refusal", methods * sum(len(a.found.questions) for a in self.unanswerable), "answer"):
            figures = refusal_figures(self.answerable, self.unanswerable, self.options.quotes, seed=self.options.seed)
        arms = [Arm("gold", method=method) for method in (FREE, *self.options.quotes)]
        records = (record for a in self.unanswerable for record in answer_records("refusal", a, arms))
        return figures, [refusal_table(figures)], records

    def perplexity(self) -> Measured:
        """Predict held-out text."""
        with self._showing("Perplexity", sum(map(len, self.sets.texts.values())), "text"):
            figures = perplexity_figures(self.grit, self.sets.texts, seed=self.options.seed, advance=self._advance)
        return figures, [perplexity_table(figures)], ()

    def triples(self) -> Measured:
        """Compare fixed triples."""
        figures = triple_figures(self.grit, seed=self.options.seed)
        return figures, [triple_table(figures)], ()

    def _runners(self, kind: Literal["answerable", "unanswerable"]) -> list[ArmRunner]:
        chosen = [replace(found, questions=getattr(found, kind)) for found in self.sets.questions]
        cachings = self.options.cachings
        return [
            ArmRunner(self.grit, found, cachings=cachings, advance=self._advance) for found in chosen if found.questions
        ]

    @contextmanager
    def _showing(self, name: str, total: int, unit: str) -> Iterator[None]:
        with progress_bar(total=total, desc=name, unit=unit, shown=self._progress, leave=False) as self._bar:
            yield
        self._bar = None

    def _advance(self, count: int) -> None:
        if self._bar is not None:
            self._bar.update(count)


def document(
    grit: GritLM, sets: EvaluationSets, options: EvaluationOptions, results: Sequence[PartResult]
) -> dict[str, Any]:
    """Return the JSON file of what was measured so far, with all that a reader needs to judge it."""
    return {
        "format": FORMAT,
        "complete": [result.part for result in results] == list(options.parts),
        "settings": {**asdict(options), "bm25": BM25, "resamples": RESAMPLES, "files": sets.digests},
        "model": described(grit),
        "environment": environment(),
        "seconds": {result.part: result.seconds for result in results},
        **{result.part: result.figures for result in results},
    }
