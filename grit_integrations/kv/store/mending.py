"""Bringing the index and the files of a store together, and moving bad files aside."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from grit_integrations.errors import CacheCorruptError
from grit_integrations.kv.store.files import key_of, read_header
from grit_integrations.kv.store.index import IndexRow

if TYPE_CHECKING:
    from grit_integrations.kv.store.folder import Folder
    from grit_integrations.kv.store.index import Index
    from grit_integrations.kv.store.opening import Opened
    from grit_integrations.kv.store.stats import Tally

_log = logging.getLogger(__name__)


class Mender:
    """What keeps an index true to the files, and says what was wrong."""

    def __init__(self, folder: Folder, max_bytes: int, tally: Tally) -> None:
        self._folder, self._max_bytes, self._tally = folder, max_bytes, tally
        self._reported: set[str] = set()

    def sweep(self, opened: Opened, *, careful: bool) -> tuple[int, int]:
        """Bring index and files together; return how many rows had no file, and files no row. Reads no tensors.

        Args:
            opened: the index.
            careful: whether every row is compared with its file's header, and a file that cannot be read is an error
                rather than left out.

        Raises:
            OSError, sqlite3.Error: as the disk and the index say.
        """
        if opened.deletes:
            self._folder.create()  # what was lost since, or stands in the way
        with suppress(OSError):
            self._folder.remove_leftovers()
        if opened.back.is_writable:
            opened.back.drop_unsound()
        # Rows first: one that is written meanwhile is not in this list, rather than seeming to lack its file.
        rows = {row.file: row for row in opened.back.rows()}
        files, odd = self._folder.scan()
        for path in odd:
            self.reject(
                opened.back, path, CacheCorruptError(f"{path} is no file of a block. It is moved to quarantine.")
            )
        missing = sum(
            self.forget(opened.back, row) for row in rows.values() if self._folder.path(row.file) not in files
        )
        strangers, known = [], set[str]()
        for path, size in files.items():
            row = rows.get(path.name)
            if row is None or path != self._folder.path(path.name):
                strangers.append((path, size))
            elif row.bytes != size or (careful and not _describes(row, path)):
                if opened.back.is_writable:
                    opened.back.forget(row.key, row.file)
                known.add(row.file)
                strangers.append((path, size))  # what the file itself says counts, if it is whole
        return missing, len(self._adopt(opened, strangers, careful) - known)

    def forget(self, index: Index, row: IndexRow) -> bool:
        """Remove the row of a file that is gone; return whether it was there."""
        with suppress(OSError, sqlite3.Error):
            if not self._folder.holds(row.file):
                return index.forget(row.key, row.file)
        return False

    def reject(self, index: Index, path: Path, error: CacheCorruptError) -> None:
        """Move a bad file aside and forget its row."""
        self._tally.add("quarantined")
        self.report(path.name, str(error))
        self._folder.quarantine(path)
        if path == self._folder.path(path.name):
            with suppress(sqlite3.Error):
                index.forget(key_of(path.name) or "", path.name)

    def remove_evicted(self, rows: Sequence[IndexRow]) -> None:
        """Delete the files of rows that had to go."""
        for row in rows:
            self._folder.remove(row.file)
        self._tally.add("evicted", len(rows))

    def report(self, about: str, message: str) -> None:
        """Log a warning, once about each thing."""
        if about not in self._reported:
            self._reported.add(about)
            _log.warning("%s", message)

    def _adopt(self, opened: Opened, files: Sequence[tuple[Path, int]], careful: bool) -> set[str]:
        """Enter files that have no row, and return them; remove those whose key has another, evict what is too much."""
        rows = [row for path, size in files if (row := self._row_of(opened.back, path, size, careful)) is not None]
        if not opened.back.is_writable:
            return set()
        owner = opened.refusal is None  # of the files: an index in memory may know less than the one on disk
        done = opened.back.commit(rows, {}, self._max_bytes if owner else None)
        self.remove_evicted(done.evicted)
        for row in rows:
            if owner and done.files[row.key] != row.file:
                self._folder.remove(row.file)
        return {row.file for row in rows if done.files[row.key] == row.file}

    def _row_of(self, index: Index, path: Path, size: int, careful: bool) -> IndexRow | None:
        try:
            if path != self._folder.path(path.name):
                raise CacheCorruptError(f"{path} does not belong there. It is moved to quarantine.")
            header, modified = read_header(path), min(path.lstat().st_mtime_ns, time.time_ns())
        except CacheCorruptError as error:
            self.reject(index, path, error)
            return None
        except OSError as error:
            if careful and not isinstance(error, FileNotFoundError):
                raise
            return None  # evicted by another process meanwhile, or not readable
        return IndexRow(header.key, path.name, size, header.tokens, header.namespace, modified, modified)


def _describes(row: IndexRow, path: Path) -> bool:
    """Whether a row says what its file's header says; a file that is gone or bad is another's affair."""
    try:
        header = read_header(path)
    except (FileNotFoundError, CacheCorruptError):
        return True
    return (header.namespace, header.tokens) == (row.namespace, row.tokens)
