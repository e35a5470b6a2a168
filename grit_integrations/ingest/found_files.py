"""Which files under the given paths are to be read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from grit_integrations.errors import IngestError
from grit_integrations.ingest.file_reader import SUFFIXES

_NOT_UTF8 = "the name is not UTF-8; rename it, for example: convmv -f latin1 -t utf-8 --notest NAME"


@dataclass(slots=True)
class FoundFiles:
    """What was found under the given paths.

    Attributes:
        files: regular files to read, absolute and sorted, each once.
        ignored: how many files have an ending that is not read.
        unreadable: files that cannot be named or looked at and directories that cannot be listed, with the reason.
    """

    files: list[Path] = field(default_factory=list)
    ignored: int = 0
    unreadable: dict[Path, str] = field(default_factory=dict)


def find_files(paths: Sequence[str | Path]) -> FoundFiles:
    """Return the readable files under `paths`: directories are searched, hidden entries and links to directories not.

    A file that is named itself is taken whatever its ending is.

    Raises:
        IngestError: a path does not exist, cannot be looked at, or is neither a file nor a directory.
    """
    for path in map(Path, paths):
        _check(path)
    found = FoundFiles()
    files: set[Path] = set()
    for place in map(place_of, map(Path, paths)):
        if not is_utf8(place):
            found.unreadable[place] = _NOT_UTF8
        elif place.is_dir():
            files.update(_walk(place, found))
        else:
            files.add(place)
    found.files = sorted(files)
    return found


def _check(path: Path) -> None:
    try:
        if not path.exists():
            raise IngestError(f"{path} does not exist. Check the path; `grit index --forget` drops what lay there.")
        if not (path.is_file() or path.is_dir()):
            raise IngestError(f"{path} is neither a file nor a directory. Give text, markdown, HTML or PDF files.")
    except OSError as error:
        raise IngestError(f"{path} cannot be looked at: {error.strerror or error}. Check the path.") from error


def place_of(path: Path) -> Path:
    """Return the absolute path by which a file or directory is known; links to files keep their own name."""
    return Path(os.path.realpath(path)) if path.is_dir() else Path(os.path.realpath(path.parent), path.name)


def _walk(root: Path, found: FoundFiles) -> Iterator[Path]:
    folders = [root]  # a stack, not recursion: folders may be nested as deep as paths can be long
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                shown = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            found.unreadable[folder] = f"the directory cannot be listed: {error.strerror}"
            continue
        for entry in shown:
            path = folder / entry.name
            try:
                is_folder, is_file = entry.is_dir(follow_symlinks=False), entry.is_file()
            except OSError as error:
                found.unreadable[path] = f"the file cannot be looked at: {error.strerror}"
                continue
            if is_folder and is_utf8(path):
                folders.append(path)
            elif is_file and path.suffix.lower() not in SUFFIXES:
                found.ignored += 1
            elif is_file and is_utf8(path):  # pipes and sockets would block, dead links are nothing
                yield path
            elif is_folder or is_file:
                found.unreadable[path] = _NOT_UTF8


def is_utf8(path: Path) -> bool:
    """Whether a path can be stored: one of other bytes has lone surrogates in Python."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def files_under(files: set[str], paths: Sequence[str | Path]) -> list[str]:
    """Return the files that are one of `paths` or lie below one of them, sorted."""
    roots = {place_of(Path(path)) for path in paths}
    return sorted(file for file in files if not roots.isdisjoint((Path(file), *Path(file).parents)))
