"""Where a reader tries the examples: a folder with what a clone has in it, and held-out data in miniature."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import llama_index.core
import pytest
from llama_index.core import Settings
from pages import ROOT
from question_sets import DISTRACTORS, INSTRUCTION, PASSAGES, QUESTIONS, question_row, write_rows


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of examples; what they set for the process is put back."""
    monkeypatch.chdir(tmp_path)
    for name in ("GRIT_MODEL", "GRIT_DEVICE", "GRIT_STORE"):
        monkeypatch.delenv(name, raising=False)
    toy = Path("examples", "training")
    shutil.copytree(ROOT / toy / "tiny", tmp_path / toy / "tiny")
    shutil.copy(ROOT / toy / "tiny.toml", tmp_path / toy)
    write_held_out(tmp_path / "runs" / "grit-data" / "evaluation")
    settings, tokenizer = dict(vars(Settings)), llama_index.core.global_tokenizer
    yield tmp_path
    for name, value in settings.items():
        setattr(Settings, name, value)
    llama_index.core.global_tokenizer = tokenizer


def write_held_out(root: Path) -> None:
    """Write a set of questions and one of retrieval, as the converter does."""
    pairs = [{"query": [INSTRUCTION, asked], "pos": [PASSAGES[title]]} for title, asked, answer in QUESTIONS if answer]
    write_rows(root / "generation" / "squad-tiny.jsonl", [question_row(*each) for each in QUESTIONS])
    write_rows(root / "retrieval" / "squad-tiny.jsonl", pairs)
    write_rows(root / "retrieval" / "squad-tiny.corpus.jsonl", [{"text": text} for text in DISTRACTORS])
