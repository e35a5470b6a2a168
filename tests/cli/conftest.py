"""The environment of the command line's tests, and what they index."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import good

from grit_integrations import GritLM
from grit_integrations.ingest import PassageIndex

LIBRARY = {
    "heart.md": "# Heart\n\nThe heart pumps blood through the body. It beats about a hundred thousand times a day.",
    "stars.txt": "Stars shine by fusion in their cores. They are very far away, and their light takes years.",
    "rails.txt": "A railway crosses the plain. The first trains carried coal from the mines to the harbour.",
}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRIT_MODEL", "GRIT_DEVICE", "GRIT_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "heart.md").write_text("# Heart\n\nThe heart pumps blood. It beats all day long.")
    (folder / "stars.txt").write_text("Stars shine by fusion. They are very far away.")
    return folder


@pytest.fixture
def store(tmp_path: Path, docs: Path, tiny: GritLM) -> Path:
    PassageIndex(tmp_path / "store", tiny, create=True).index([docs])
    return tmp_path / "store"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A folder of three files of one passage each."""
    folder = tmp_path / "library"
    folder.mkdir()
    for name, text in LIBRARY.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def indexed(tmp_path: Path, library: Path, mini: GritLM) -> Path:
    """An index with the KV cache of three passages."""
    good("index", library, "--store", tmp_path / "s", "--caching", "doc")
    return tmp_path / "s"
