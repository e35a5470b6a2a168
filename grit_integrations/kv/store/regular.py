"""Regular files and real folders, told apart from what may stand in their place: pipes, sockets, links, devices."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from io import FileIO
from pathlib import Path

from grit_integrations.errors import CacheCorruptError

# Opening a pipe waits for a writer, and a link leads to files that are not the store's.
_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "symbolic link",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}


def kind_of(path: Path) -> str | None:
    """Return what stands at a path, such as `"file"`, `"folder"` or `"pipe"`; None if nothing does.

    Raises:
        OSError: it cannot be looked at.
    """
    try:
        return _KINDS.get(stat.S_IFMT(path.lstat().st_mode), "device")
    except (FileNotFoundError, NotADirectoryError):
        return None


def open_regular(path: Path) -> FileIO:
    """Open a regular file for reading, without waiting and without following a link.

    Raises:
        CacheCorruptError: something else is in its place.
        OSError: as the disk says.
    """
    try:
        file = FileIO(path, opener=lambda name, flags: os.open(name, flags | _FLAGS))
    except OSError as error:
        if (kind := kind_of(path)) in ("file", None):
            raise
        raise _odd(path, str(kind)) from error
    mode = os.fstat(file.fileno()).st_mode
    if not stat.S_ISREG(mode):
        file.close()
        raise _odd(path, _KINDS.get(stat.S_IFMT(mode), "device"))
    return file


def discard(path: Path) -> None:
    """Delete a file, or a folder that is empty; one that holds something stays.

    Raises:
        OSError: a file cannot be deleted.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError:
        if kind_of(path) != "folder":
            raise
        with suppress(OSError):
            path.rmdir()


def _odd(path: Path, kind: str) -> CacheCorruptError:
    return CacheCorruptError(f"{path} is a {kind}, wanted a regular file. It is moved to quarantine and not used.")
