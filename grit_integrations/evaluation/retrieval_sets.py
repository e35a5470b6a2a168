"""Retrieval sets: queries, the passages to find, and other passages beside them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grit_integrations.errors import DataError
from grit_integrations.evaluation.json_lines import read_rows
from grit_integrations.evaluation.row_kinds import parse_pair


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """Queries, candidate passages, and for each query the indices of the passages that answer it."""

    name: str
    instruction: str
    queries: tuple[str, ...]
    passages: tuple[str, ...]
    gold: tuple[tuple[int, ...], ...]


def load_retrieval(path: Path, *, queries: int | None = None, passages: int | None = None) -> RetrievalSet:
    """Read `NAME.jsonl` (`{"query", "pos"}`) and, when it is there, `NAME.corpus.jsonl` (`{"text"}`).

    Raises:
        DataError: no rows, or one that is wrong, by file and line.
    """
    pairs = list(read_rows(path, parse_pair))[:queries]
    if not pairs:
        raise DataError(f"{path} has no rows to evaluate.")
    numbers: dict[str, int] = {}
    gold = tuple(tuple(numbers.setdefault(text, len(numbers)) for text in pair.positives) for pair in pairs)
    for text in load_corpus(path):
        if passages is None or len(numbers) < passages:
            numbers.setdefault(text, len(numbers))
    texts = tuple(pair.query for pair in pairs)
    return RetrievalSet(path.name.removesuffix(".jsonl"), pairs[0].instruction, texts, tuple(numbers), gold)


def load_corpus(path: Path) -> list[str]:
    """Read the passages beside the retrieval set at `path` that answer none of its queries; none without the file.

    Raises:
        DataError: a row without text, by file and line.
    """
    corpus = path.with_name(path.name.removesuffix(".jsonl") + ".corpus.jsonl")
    return list(read_rows(corpus, _parse_passage)) if corpus.exists() else []


def _parse_passage(row: Any) -> str:
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise ValueError('"text" must be a passage that is not blank')
    return text


def evaluation_files(folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """Return the sets of a folder, or those that are named."""
    if names:
        return [folder / f"{name}.jsonl" for name in names]
    return sorted(path for path in folder.glob("*.jsonl") if not path.name.endswith(".corpus.jsonl"))


def narrowed(found: RetrievalSet, *, queries: int, passages: int | None, seed: int) -> RetrievalSet:
    """Return a set with at most `queries` queries, drawn at random, and at most `passages` passages.

    Every passage that answers a drawn query stays, beyond `passages` if need be. Those that answer left-out queries
    stay as distractors as far as there is room.
    """
    rng = random.Random(f"{seed}:{found.name}")  # noqa: S311  # sampling, not secrets
    rows = range(len(found.queries))
    chosen = sorted(rng.sample(rows, min(queries, len(rows))))
    kept = sorted({index for row in chosen for index in found.gold[row]})
    others = sorted(set(range(len(found.passages))) - set(kept))
    if passages is not None:
        others = sorted(rng.sample(others, max(0, min(passages - len(kept), len(others)))))
    places = {index: place for place, index in enumerate([*kept, *others])}
    return replace(
        found,
        queries=tuple(found.queries[row] for row in chosen),
        passages=tuple(found.passages[index] for index in places),
        gold=tuple(tuple(places[index] for index in found.gold[row]) for row in chosen),
    )
