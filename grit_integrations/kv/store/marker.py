"""Whether a folder is a store's own, which its marker says. Any other with files in it is refused and not touched."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from grit_integrations.errors import CacheCorruptError, CacheError, OptionError
from grit_integrations.kv.store.regular import kind_of, open_regular

MARKER = "grit-kv-store.txt"
_TEXT = (
    "This folder is a KV cache of grit_integrations. Everything in it can be computed again.\n"
    "This file says that the folder is the cache's own, and is known by its name alone.\n"
)
_TABLE = (
    b"CREATE TABLE blocks (\n  key TEXT PRIMARY KEY, file TEXT NOT NULL, bytes INTEGER NOT NULL"  # as sqlite keeps it
)
_READ = 1 << 20  # bytes of an index in which its table is looked for


def own_folder(path: str | Path) -> Path:
    """Return where a store is to be, for good, and refuse a place that cannot be its own.

    Raises:
        OptionError: no path.
        CacheError: a folder with other files in it, or a relative path in a directory that is gone.
    """
    try:
        folder = Path(path).absolute()
        if b"\0" in os.fsencode(folder):
            raise ValueError("it has a null byte")
        with suppress(OSError):  # what cannot be looked at is told, or recovered from, when it is opened
            check_owned(folder)
    except FileNotFoundError as error:
        raise CacheError(
            f"{str(path)!r} is relative, and the current directory is gone. Give an absolute path."
        ) from error
    except (TypeError, ValueError) as error:
        raise OptionError(f"path={path!r} names no folder ({error}). Give a folder, or None for RAM only.") from error
    return folder


def check_owned(root: Path) -> None:
    """Refuse a folder that is not a store's: one that holds something, and neither the marker nor an index of ours.

    Raises:
        CacheError: it is somebody else's.
        OSError: it cannot be looked at.
    """
    try:
        with os.scandir(root) as entries:
            first = next(entries, None)
    except FileNotFoundError:
        return
    if first is None or kind_of(root / MARKER) is not None or any(map(_has_our_table, _indexes(root))):
        return
    raise CacheError(
        f"{root} holds other files, such as {first.name!r}, and no {MARKER}: it is not a KV cache's folder. Nothing in "
        f"it was touched. Give a folder that is empty or not there yet. If it is a cache, put an empty {MARKER} there."
    )


def mark(root: Path) -> None:
    """Write the marker, unless it is there.

    Raises:
        OSError: as the disk says.
    """
    if kind_of(root / MARKER) is None:
        with suppress(FileExistsError):
            descriptor = os.open(root / MARKER, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(_TEXT)


def _indexes(root: Path) -> tuple[Path, Path]:
    return root / "index.sqlite", root / "index.sqlite-wal"  # where the table is, if nobody could tidy up


def _has_our_table(path: Path) -> bool:
    # The file is searched rather than opened by sqlite, which may leave files beside it.
    try:
        with open_regular(path) as file:
            return _TABLE in file.read(_READ)
    except (FileNotFoundError, CacheCorruptError):
        return False
