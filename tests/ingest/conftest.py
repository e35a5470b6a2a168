"""A folder of files, and an index that has none of them yet."""

from __future__ import annotations

from pathlib import Path

import pytest
from pdf_files import pdf

from grit_integrations import GritLM
from grit_integrations.ingest import PassageIndex


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A folder with a file of each kind."""
    folder = tmp_path / "docs"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "heart.txt").write_text("The heart pumps blood through the body.")
    (folder / "sky.md").write_text("# Stars\n\nStars shine by fusion.\n\n## Moon\n\nThe Moon raises tides.")
    (folder / "deep" / "rails.html").write_text("<title>Rails</title><p>A railway crosses the plain.")
    pdf(folder / "deep" / "er" / "law.pdf", "Clause one is short.", "Clause two is long.")
    return folder


@pytest.fixture
def index(tmp_path: Path, tiny: GritLM) -> PassageIndex:
    return PassageIndex(tmp_path / "store", tiny, create=True)
