"""The held-out sets of a data folder, read and checked before any work is done."""

from __future__ import annotations

import fnmatch
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from grit_integrations.errors import DataError
from grit_integrations.evaluation.json_lines import read_rows
from grit_integrations.evaluation.report import joined
from grit_integrations.evaluation.retrieval_sets import (
    RetrievalSet,
    evaluation_files,
    load_corpus,
    load_retrieval,
    narrowed,
)
from grit_integrations.evaluation.row_kinds import TextRow, parse_text
from grit_integrations.evaluation.scope import EvaluationOptions

_CONVERT = "Make it with: python -m grit_integrations.training.prepare.convert"
_FIELDS = ("question", "context", "title", "answer")
_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class HeldOutQuestion:
    """A question about a passage.

    Attributes:
        text: what is asked.
        context: the passage as the model reads it, its title in front.
        title: of the document.
        answer: blank if the passage does not hold it.
    """

    text: str
    context: str
    title: str
    answer: str

    @property
    def passage(self) -> str:
        """The context without its title."""
        return self.context.removeprefix(self.title).lstrip() or self.context


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """Questions, and the passages that their answers are looked for in."""

    name: str
    questions: tuple[HeldOutQuestion, ...]
    passages: tuple[str, ...]

    @property
    def answerable(self) -> tuple[HeldOutQuestion, ...]:
        """The questions whose passage holds the answer."""
        return tuple(question for question in self.questions if question.answer)

    @property
    def unanswerable(self) -> tuple[HeldOutQuestion, ...]:
        """The questions whose passage does not hold the answer."""
        return tuple(question for question in self.questions if not question.answer)


@dataclass(frozen=True, slots=True)
class EvaluationSets:
    """What will be measured, by part, and a digest of each file that was read."""

    retrieval: tuple[RetrievalSet, ...] = ()
    questions: tuple[QuestionSet, ...] = ()
    texts: dict[str, tuple[TextRow, ...]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)


def open_sets(folder: Path, options: EvaluationOptions) -> EvaluationSets:
    """Read what `options` name from a folder that the converter wrote.

    Raises:
        DataError: no such folder or set (names what is there), an empty set, a row that is wrong (by file and line).
    """
    root = _evaluation_folder(folder)
    wanted = set(options.parts)
    retrieval = _files(root / "retrieval", options.sets) if "retrieval" in wanted else []
    questions = _files(root / "generation", options.answer_sets) if wanted & {"answers", "refusal"} else []
    texts = _files(root / "generation", ()) if "perplexity" in wanted else []
    return EvaluationSets(
        retrieval=tuple(_retrieval_set(path, options) for path in retrieval),
        questions=tuple(_question_set(path, root / "retrieval", options) for path in questions),
        texts=_by_kind(texts, options),
        digests={str(path.relative_to(root)): _digest(path) for path in sorted({*retrieval, *questions, *texts})},
    )


def _evaluation_folder(folder: Path) -> Path:
    """Return where the sets lie in a folder that the converter wrote, or the folder itself if they lie there."""
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}. {_CONVERT} SOURCE_DATA {folder}")
    for root in (folder / "evaluation", folder):
        if (root / "retrieval").is_dir() or (root / "generation").is_dir():
            return root
    held = joined([path.name for path in folder.iterdir()])
    raise DataError(f"{folder} has neither retrieval/ nor generation/, nor evaluation/ with them; it has {held}.")


def _files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Return the sets that match any of the patterns, or all but the `headings-` sets without patterns."""
    there = {path.name.removesuffix(".jsonl"): path for path in evaluation_files(folder)}
    found = {name for pattern in patterns for name in fnmatch.filter(there, pattern)}
    if not patterns:
        found = {name for name in there if not name.startswith("headings-")}
    named = {pattern for pattern in patterns if not set(pattern) & set("*?[")}
    if not found or named - found:
        missing = sorted(named - found) or patterns
        raise DataError(f"{folder} has no set {joined(missing)}. It has {joined(list(there))}.")
    return [there[name] for name in sorted(found)]


def _retrieval_set(path: Path, options: EvaluationOptions) -> RetrievalSet:
    found = load_retrieval(path)
    return narrowed(found, queries=options.queries, passages=options.passages, seed=options.seed)


def _question_set(path: Path, retrieval: Path, options: EvaluationOptions) -> QuestionSet:
    rows = _not_empty(path, list(read_rows(path, parse_question)))
    name = path.name.removesuffix(".jsonl")
    chosen = _drawn(rows, options.questions, f"{options.seed}:{name}")
    asked = dict.fromkeys(question.context for question in chosen)  # first, so that no bound cuts them off
    others = [*(question.context for question in rows), *load_corpus(retrieval / path.name)]
    passages = tuple(dict.fromkeys([*asked, *others]))
    most = None if options.passages is None else max(options.passages, len(asked))
    return QuestionSet(name, chosen, passages[:most])


def parse_question(row: Any) -> HeldOutQuestion:
    """Check and read a row of a set of questions: `{"question", "context", "answer", "title"}`, answer maybe blank."""
    found = row if isinstance(row, dict) else {}
    values = [str(found[name]) for name in _FIELDS if isinstance(found.get(name), str)]
    if len(values) < len(_FIELDS) or not (values[0].strip() and values[1].strip()):
        raise ValueError(f"a question needs texts in {', '.join(_FIELDS)}. {_CONVERT}")
    return HeldOutQuestion(*values)


def _by_kind(paths: Sequence[Path], options: EvaluationOptions) -> dict[str, tuple[TextRow, ...]]:
    """Return held-out texts, with the sets `cloze-SOURCE`, `text-SOURCE`, ... of one kind together."""
    kinds: dict[str, tuple[TextRow, ...]] = {}
    for path in paths:
        kind = path.name.removesuffix(".jsonl").split("-", maxsplit=1)[0]
        rows = _drawn(_not_empty(path, list(read_rows(path, parse_text))), options.rows, f"{options.seed}:{path.name}")
        kinds[kind] = (*kinds.get(kind, ()), *rows)
    return kinds


def _not_empty(path: Path, rows: list[_Row]) -> list[_Row]:
    if not rows:
        raise DataError(f"{path} has no rows to evaluate.")
    return rows


def _drawn(rows: Sequence[_Row], count: int, seed: str) -> tuple[_Row, ...]:
    rng = random.Random(seed)  # noqa: S311  # sampling, not secrets
    return tuple(rows[index] for index in sorted(rng.sample(range(len(rows)), min(count, len(rows)))))


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
