"""Which files under the given paths are to be read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from grit_integrations.errors import IngestError
from grit_integrations.ingest.file_reader import SUFFIXES


@dataclass(slots=True)
class FoundFiles:
    """What was found under the given paths.

    Attributes:
        files: regular files to read, absolute and sorted, each once.
        ignored: how many files have an ending that is not read.
        unreadable: directories that could not be listed, with the reason.
    """

    files: list[Path] = field(default_factory=list)
    ignored: int = 0
    unreadable: dict[Path, str] = field(default_factory=dict)


def find_files(paths: Sequence[str | Path]) -> FoundFiles:
    """Return the readable files under `paths`: directories are searched, hidden entries and links to directories not.

    A file that is named itself is taken whatever its ending is.

    Raises:
        IngestError: a path does not exist, or is neither a file nor a directory.
    """
    for path in map(Path, paths):
        if not path.exists():
            raise IngestError(f"{path} does not exist. Check the path; `grit index --forget` drops what lay there.")
        if not (path.is_file() or path.is_dir()):
            raise IngestError(f"{path} is neither a file nor a directory. Give text, markdown, HTML or PDF files.")
    found = FoundFiles()
    files: set[Path] = set()
    for path in map(Path, paths):
        if path.is_file():
            files.add(place_of(path))
        else:
            files.update(_walk(place_of(path), found))
    found.files = sorted(files)
    return found


def place_of(path: Path) -> Path:
    """Return the absolute path by which a file or directory is known; links to files keep their own name."""
    return path.resolve() if path.is_dir() else path.parent.resolve() / path.name


def _walk(root: Path, found: FoundFiles) -> Iterator[Path]:
    def note(error: OSError) -> None:
        found.unreadable[Path(error.filename)] = f"the directory cannot be listed: {error.strerror}"

    for folder, names, files in os.walk(root, onerror=note):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in files:
            path = Path(folder, name)
            if name.startswith(".") or not path.is_file():  # pipes and sockets would block, dead links are nothing
                continue
            if path.suffix.lower() in SUFFIXES:
                yield path
            else:
                found.ignored += 1


def files_under(files: set[str], paths: Sequence[str | Path]) -> list[str]:
    """Return the files that are one of `paths` or lie below one of them, sorted."""
    roots = [place_of(Path(path)) for path in paths]
    return sorted(file for file in files if any(Path(file).is_relative_to(root) for root in roots))
