"""Opening the index of a store: for writing, or so far as the disk allows, and anew from the files if it is damaged."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from grit_integrations.errors import CacheError
from grit_integrations.kv.store.index import Index
from grit_integrations.kv.store.recovery import as_cache_error, is_damage, lacks_room
from grit_integrations.kv.store.regular import kind_of

if TYPE_CHECKING:
    from grit_integrations.kv.store.folder import Folder

_log = logging.getLogger(__name__)

_PATIENCE = 10.0  # seconds that background work waits for another process's transaction
_HASTE = 0.25  # seconds that an answer waits for one


class ReadOnlyError(CacheError):
    """A folder that this user may read and not write."""


class Opened(NamedTuple):
    """The connections to an index.

    Attributes:
        back: of background work, which waits for others.
        front: of answers, which gives up soon.
        refusal: why nothing can be written, or None if it can.
        deletes: whether files can be deleted.
        inode: of the index's file, if it is written to.
    """

    back: Index
    front: Index
    refusal: CacheError | None = None
    deletes: bool = True
    inode: int | None = None

    def close(self) -> None:
        """Close the connections; who still uses one of them gets sqlite3.Error."""
        for index in (self.front, self.back):
            index.close()


def open_for_writing(folder: Folder, fill: Callable[[Opened], object], *, patient: bool) -> Opened:
    """Create what is missing of a folder and open its index.

    Args:
        folder: where the store is.
        patient: wait for other processes that are opening or writing, rather than giving up at once.
        fill: brings the index in step with the files.

    Raises:
        CacheError: the folder is somebody else's, or cannot be written to.
        OSError, sqlite3.Error: as the disk and the index say.
    """
    if not folder.create():
        raise ReadOnlyError(f"{folder.root} cannot be written to. Blocks stay in RAM; make it writable to keep them.")
    wait, inode = _PATIENCE if patient else 0.0, folder.index_inode()
    try:
        return _filled(_connected(folder, wait), fill)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        if not is_damage(error) and not _is_falsely_readonly(folder, error):
            raise
        _log.warning("%s is not usable (%s); it is rebuilt from the files.", folder.index, error)
    with folder.locked(wait):
        if folder.index_inode() == inode:  # or else another process has rebuilt it
            for path in folder.index_files():
                folder.quarantine(path)
            folder.create()
    return _filled(_connected(folder, wait), fill)


def open_without_writing(folder: Folder, fill: Callable[[Opened], object], error: BaseException) -> Opened:
    """Open what can still be read, and perhaps deleted, when opening for writing failed with `error`.

    On a full disk sqlite cannot even read, so then the index is made in memory, from the files.

    Raises:
        OSError, sqlite3.Error, CacheError: `error`, if that leaves nothing to open.
    """
    if isinstance(error, ReadOnlyError):
        index = _for_reading(folder)
        return _filled(Opened(index, index, error, deletes=False), fill)
    if not lacks_room(error):
        raise error
    index = _in_memory()
    return _filled(Opened(index, index, as_cache_error(error, folder.root)), fill)


def _filled(opened: Opened, fill: Callable[[Opened], object]) -> Opened:
    try:
        fill(opened)
    except BaseException:
        opened.close()
        raise
    return opened


def _connected(folder: Folder, wait: float) -> Opened:
    """Connect to an index that was checked; nobody rebuilds it meanwhile."""
    with folder.locked(wait):
        back = Index(folder.index, wait=wait)
        try:
            back.check()
            front = Index(folder.index, wait=wait, checkpoints=False)
        except BaseException:
            back.close()
            raise
    back.wait_for_others(_PATIENCE)
    front.wait_for_others(_HASTE)
    return Opened(back, front, inode=folder.index_inode())


def _is_falsely_readonly(folder: Folder, error: BaseException) -> bool:
    """Whether sqlite takes an index that may be written to for one that may not, as one flipped bit makes it do."""
    found = [path for path in folder.index_files() if kind_of(path) is not None]
    return "readonly" in str(error) and all(os.access(path, os.W_OK) for path in found)


def _for_reading(folder: Folder) -> Index:
    log = folder.index_files()[1]
    if kind_of(folder.index) == "file":
        # A folder that cannot be written to holds no journal; one that is left there counts, and sqlite would skip it.
        modes = ("ro",) if kind_of(log) is not None and log.lstat().st_size else ("ro", "immutable")
        for mode in modes:
            try:
                index = Index(folder.index, wait=_HASTE, mode=mode)
                index.check()
            except (sqlite3.Error, UnicodeDecodeError):
                continue
            return index
    return _in_memory()


def _in_memory() -> Index:
    return Index(Path("/in-memory"), wait=_HASTE, mode="memory")  # filled from the files by whoever opens the store
