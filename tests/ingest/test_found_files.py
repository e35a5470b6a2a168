"""Which files are found under a path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from grit_integrations import IngestError
from grit_integrations.ingest import find_files


def test_what_is_found(docs: Path) -> None:
    (docs / ".hidden").mkdir()
    (docs / ".hidden" / "no.txt").write_text("hidden")
    (docs / ".no.txt").write_text("hidden")
    (docs / "photo.jpg").write_bytes(b"\xff\xd8")
    (docs / "Makefile").write_text("all:")
    os.mkfifo(docs / "pipe.txt")
    (docs / "loop").symlink_to(docs, target_is_directory=True)
    (docs / "dead.txt").symlink_to(docs / "nothing.txt")
    found = find_files([docs, docs / "heart.txt", docs / "Makefile"])
    assert [path.name for path in found.files] == ["Makefile", "law.pdf", "rails.html", "heart.txt", "sky.md"]
    assert found.ignored == 2  # photo and Makefile, as they stand in the folder
    with pytest.raises(IngestError, match="neither a file nor a directory"):
        find_files([docs / "pipe.txt"])
    with pytest.raises(IngestError, match="missing does not exist"):
        find_files([docs, docs / "missing"])
