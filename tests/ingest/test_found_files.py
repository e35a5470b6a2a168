"""Which files are found under a path."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from growth import assert_linear

from grit_integrations import IngestError
from grit_integrations.ingest import find_files
from grit_integrations.ingest.found_files import files_under


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


def test_odd_names_are_found_as_they_are(tmp_path: Path) -> None:
    names = [
        "line\nbreak.txt",
        "quote'\".txt",
        "escape\x1b[2J.md",
        "-dash.txt",
        "space .txt",
        "ünï.txt",
        "[x].txt",
        "%.txt",
    ]
    for name in names:
        (tmp_path / name).write_text("text")
    assert {file.name for file in find_files([tmp_path]).files} == set(names)


def test_names_that_are_not_utf8_are_listed(tmp_path: Path) -> None:
    folder, file = (tmp_path / os.fsdecode(name) for name in (b"d\xe9p\xf4t", b"r\xe9sum\xe9.txt"))
    try:
        folder.mkdir()
        file.write_text("text")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (folder / "inside.txt").write_text("text")
    (tmp_path / "plain.txt").write_text("text")
    for paths in ([tmp_path], [folder, file, tmp_path / "plain.txt"]):
        found = find_files(paths)
        assert found.files == [tmp_path / "plain.txt"]
        assert found.unreadable.keys() == {folder, file}
        assert all("not UTF-8; rename it" in reason for reason in found.unreadable.values())


def test_folders_may_be_nested_as_deep_as_paths_can_be_long(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(1500):  # more than Python's limit of recursion
        deep /= "d"
        deep.mkdir()
    (deep / "text.txt").write_text("text")
    assert find_files([tmp_path]).files == [deep / "text.txt"]
    (deep / "text.txt").unlink()
    while deep != tmp_path:  # pytest's own way of removing folders has that limit
        deep.rmdir()
        deep = deep.parent


def test_links_in_circles_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "one.txt").symlink_to("two.txt")
    (tmp_path / "two.txt").symlink_to("one.txt")
    found = find_files([tmp_path])
    assert not found.files
    assert all("symbolic links" in reason for reason in found.unreadable.values())
    with pytest.raises(IngestError, match=r"does not exist|cannot be looked at"):
        find_files([tmp_path / "one.txt"])
    assert files_under({str(tmp_path / "one.txt")}, [tmp_path / "one.txt"]) == [str(tmp_path / "one.txt")]


def test_files_under_many_paths_take_time_in_proportion(tmp_path: Path) -> None:
    def under(names: str) -> list[str]:
        files = [str(tmp_path / name) for name in names.split()]
        return files_under(set(files), files)

    assert_linear(under, lambda count: " ".join(f"{number}.txt" for number in range(count)), 1000)


def test_a_listing_that_is_refused_is_noted(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = os.scandir

    def refusing(path: Path) -> object:  # permissions do not stop the user under whom tests may run
        if Path(path).name == "deep":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = find_files([docs])
    assert [file.name for file in found.files] == ["heart.txt", "sky.md"]
    assert found.unreadable == {docs / "deep": "the directory cannot be listed: Permission denied"}
