"""Where a reader tries the examples: an empty folder, and what a clone has beside it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import llama_index.core
import pytest
from llama_index.core import Settings
from pages import ROOT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of examples; what they set for the process is put back."""
    monkeypatch.chdir(tmp_path)
    for name in ("GRIT_MODEL", "GRIT_DEVICE", "GRIT_STORE"):
        monkeypatch.delenv(name, raising=False)
    toy = Path("examples", "training")
    shutil.copytree(ROOT / toy / "tiny", tmp_path / toy / "tiny")
    shutil.copy(ROOT / toy / "tiny.toml", tmp_path / toy)
    settings, tokenizer = dict(vars(Settings)), llama_index.core.global_tokenizer
    yield tmp_path
    for name, value in settings.items():
        setattr(Settings, name, value)
    llama_index.core.global_tokenizer = tokenizer
