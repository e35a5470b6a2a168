"""A corpus of three short texts."""

from __future__ import annotations

from pathlib import Path

import pytest
from demo_corpus import write_question


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A corpus of three files of which each has one passage."""
    corpus = tmp_path / "corpus"
    (corpus / "body").mkdir(parents=True)
    (corpus / "body" / "heart.md").write_text("# Heart\n\nThe heart pumps blood.")
    (corpus / "body" / "lungs.md").write_text("# Lungs\n\nThe lungs take in air.")
    (corpus / "body" / "skin.md").write_text("# Skin\n\nThe skin keeps water out.")
    write_question(corpus)
    return corpus
