"""A folder of held-out sets, small enough to read, in the converter's layout."""

from __future__ import annotations

from pathlib import Path

import pytest
from question_sets import DISTRACTORS, INSTRUCTION, PASSAGES, QUESTIONS, question_row, write_rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the converter writes, in miniature: one set of each kind."""
    root = tmp_path / "data" / "evaluation"
    pairs = [{"query": [INSTRUCTION, asked], "pos": [PASSAGES[title]]} for title, asked, answer in QUESTIONS if answer]
    corpus = [{"text": text} for text in DISTRACTORS]
    for name in ("squad-tiny", "headings-tiny"):
        write_rows(root / "retrieval" / f"{name}.jsonl", pairs)
        write_rows(root / "retrieval" / f"{name}.corpus.jsonl", corpus)
    write_rows(root / "generation" / "squad-tiny.jsonl", [question_row(*each) for each in QUESTIONS])
    write_rows(root / "generation" / "text-tiny.jsonl", [{"text": text} for text in PASSAGES.values()])
    return tmp_path / "data"
