"""The disk tier of a store: the folder, its index and the thread that writes."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from grit_integrations.errors import CacheCorruptError, CacheError
from grit_integrations.kv.store.files import (
    check_file,
    file_name,
    key_of,
    open_file,
    read_header,
    write_file,
)
from grit_integrations.kv.store.folder import Folder
from grit_integrations.kv.store.index import Index, IndexRow
from grit_integrations.kv.store.recovery import FAULTS, as_cache_error, too_large
from grit_integrations.kv.store.stats import Verification
from grit_integrations.kv.store.worker import Task, Worker

if TYPE_CHECKING:
    from grit_integrations.kv.blocks import KVBlock
    from grit_integrations.kv.policy import Speeds
    from grit_integrations.kv.store.files import OpenedFile
    from grit_integrations.kv.store.index import Totals
    from grit_integrations.kv.store.stats import Tally

_log = logging.getLogger(__name__)

_NOT_DAMAGED = ("locked", "busy", "I/O error", "unable to open", "readonly", "is full")  # what sqlite says then
_PATIENCE = 10.0  # seconds that background work waits for another process's transaction
_HASTE = 0.25  # seconds that an answer waits for one
_MOST_USES = 256  # uses that wait to be noted in the index
_USES_AGE = 5.0  # seconds that they wait at most, while there are more
_TOUCH = "touch"  # names the task that notes uses; no block has such a key


class Disk:
    """The disk tier: the folder, its index and the thread that writes.

    Two connections: `_front` answers and gives up soon, `_back` belongs to background work and waits for others.

    Raises:
        OSError, sqlite3.Error: the folder cannot even be read.
    """

    def __init__(self, root: Path, max_bytes: int, namespace: str, tally: Tally) -> None:
        self.max_bytes, self._namespace = max_bytes, namespace
        self.writer = Worker("kv-writer")
        self.failures: list[CacheError] = []
        self._folder, self._tally = Folder(root), tally
        self._commit = threading.Lock()
        self._reported: set[str] = set()
        self._uses: dict[str, tuple[int, int]] = {}
        self._uses_since = time.monotonic()
        self._uses_lock = threading.Lock()
        self.writable = self._folder.create()
        self._back, self._front = self._open_index()
        self._sweep()

    def load(self, key: str) -> OpenedFile | None:
        """Return a block whose file was checked.

        Raises:
            CacheCorruptError: the file is bad; it was quarantined.
            OSError, sqlite3.Error: as the disk and the index say.
        """
        row = self._front.find(key)
        if row is None or key_of(row.file) != key:
            return None
        path = self._folder.path(row.file)
        try:
            return open_file(path)
        except FileNotFoundError:
            self._forget(row)
            return None
        except CacheCorruptError as error:
            self._reject(path, error)
            raise

    def known(self, keys: Sequence[str]) -> set[str]:
        """Return those of `keys` that are on disk."""
        return self._front.known(keys)

    def file_bytes(self, key: str) -> int | None:
        """Return the size of a block's file."""
        row = self._front.find(key)
        return None if row is None else row.bytes

    def save(self, key: str, block: KVBlock) -> bool:
        """Queue a block to be written; False if too much waits."""
        task = Task(partial(self._save, key, block, time.time_ns()), block, block.nbytes)
        return self.writer.submit(key, task)

    def touch(self, key: str) -> None:
        """Note a use; the index learns of it later."""
        now = time.time_ns()
        if not self.writable:
            return
        with self._uses_lock:
            self._uses[key] = (now, self._uses.get(key, (0, 0))[1] + 1)
            waited = time.monotonic() - self._uses_since
            due = len(self._uses) >= _MOST_USES or waited > _USES_AGE
        if due:
            self.writer.submit(_TOUCH, Task(lambda _: self.note_uses()))

    def note_uses(self) -> None:
        """Write the uses that wait into the index. Losing them costs the order of eviction only."""
        with suppress(sqlite3.Error):
            if self.writable and (uses := self._take_uses()):
                self._back.commit([], uses, None)

    def delete(self, keys: Sequence[str] | None, namespace: str | None) -> set[str]:
        """Delete the blocks of keys, of a namespace, or (neither given) all, queued ones too; return their keys.

        Raises:
            CacheError: the folder is read-only.
            OSError, sqlite3.Error: as the disk and the index say.
        """
        if not self.writable:
            if not any(
                namespace in (None, row.namespace) and (keys is None or row.key in keys) for row in self._back.rows()
            ):
                return set()
            raise CacheError(f"{self._folder.root} cannot be written to. Delete blocks as a user who may.")
        if keys is None:
            self._sweep()  # files that the index does not know have namespaces too
        ours = keys is not None or namespace in (None, self._namespace)
        deleted = self.writer.cancel(keys) if ours else set()
        with self._commit:
            rows = self._back.delete(keys, namespace=namespace)
            deleted |= {row.key for row in rows}
            deleted |= self._folder.erase(deleted if keys is None else keys)
            if keys is None:
                self._folder.clear_quarantine()  # what is bad does not reliably say whose it is
        return deleted

    def verify(self, progress: bool | None) -> Verification:
        """Read every file; see `KVCacheStore.verify`."""
        before = self._tally["quarantined"]
        missing, adopted = self._sweep()
        checked = intact = 0
        with tqdm(
            self._back.rows(), "Verifying", unit="block", disable=None if progress is None else not progress
        ) as rows:
            for row in rows:
                path = self._folder.path(row.file)
                try:
                    checked += 1
                    check_file(path)
                    intact += 1
                except FileNotFoundError:
                    checked -= 1
                    missing += self._forget(row)
                except CacheCorruptError as error:
                    self._reject(path, error)
        return Verification(checked, intact, self._tally["quarantined"] - before, missing, adopted)

    def totals(self) -> Totals:
        """Return sums over all blocks."""
        return self._front.totals()

    def count_miss(self, key: str) -> int:
        """Note one more miss of a key; return how many there were."""
        return self._front.count_miss(key)

    def speeds(self, model: str) -> Speeds:
        """Return what was measured."""
        return self._front.speeds(model)

    def record_speeds(self, model: str, measured: dict[str, float]) -> None:
        """Keep the first measurements."""
        self._front.record_speeds(model, measured)

    def forget_misses(self) -> None:
        """Forget all misses."""
        self._back.forget_misses()

    def close(self) -> None:
        """Write what waits, end the thread, close the index."""
        self.writer.close()
        self.note_uses()
        for index in (self._front, self._back):
            with suppress(sqlite3.Error):
                index.close()

    # Writing, on the writer's thread

    def _save(self, key: str, block: KVBlock, put_at: int, task: Task) -> None:
        try:
            if not task.cancelled and not self._has(key):
                self._write(key, block, put_at, task)
        except (*FAULTS, RuntimeError) as error:  # RuntimeError: what torch raises when a device is out of memory
            self._tally.add("write_failures")
            failure = as_cache_error(error, self._folder.root)
            self._fail(failure)
            self.report("write", f"A KV block was not written: {failure}")

    def _fail(self, error: CacheError) -> None:
        if not self.failures:  # the first is what `flush` raises; a list of all would grow for ever
            self.failures.append(error)

    def _has(self, key: str) -> bool:
        row = self._back.find(key)
        return row is not None and self._folder.path(row.file).exists()

    def _write(self, key: str, block: KVBlock, put_at: int, task: Task) -> None:
        temporary = self._folder.temporary()
        try:
            digest, size = write_file(temporary, key, self._namespace, block)
            row = IndexRow(key, file_name(key, digest), size, len(block), self._namespace, put_at, put_at)
            with self._commit:  # a deletion happens before, and cancels the task, or after, and deletes the file
                if size > self.max_bytes:
                    self._tally.add("too_large")
                    self._fail(too_large(size, self.max_bytes))
                elif not task.cancelled:
                    self._register(temporary, row)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _register(self, temporary: Path, row: IndexRow) -> None:
        self._folder.place(temporary, row.file)
        try:
            stale = self._back.find(row.key)
            if stale is not None and stale.file != row.file and not self._folder.path(stale.file).exists():
                self._back.forget(stale.key, stale.file)
            done = self._back.commit([row], self._take_uses(), self.max_bytes)
        except sqlite3.Error:
            self._folder.remove(row.file)  # nobody would count its bytes
            raise
        self._remove(done.evicted)
        if done.files[row.key] != row.file:
            self._folder.remove(row.file)  # another process was first
        else:
            self._tally.add("written")

    def _remove(self, rows: Sequence[IndexRow]) -> None:
        for row in rows:
            self._folder.remove(row.file)
        self._tally.add("evicted", len(rows))

    def _take_uses(self) -> dict[str, tuple[int, int]]:
        with self._uses_lock:
            uses, self._uses = self._uses, {}
            self._uses_since = time.monotonic()
        return uses

    # Opening and mending

    def _open_index(self) -> tuple[Index, Index]:
        path = self._folder.index
        if not self.writable:
            index = self._open_for_reading()
            return index, index
        with self._folder.locked():
            try:
                back = Index(path, wait=_PATIENCE)
                try:
                    back.check()
                except BaseException:
                    back.close()
                    raise
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                if any(sign in str(error) for sign in _NOT_DAMAGED):
                    raise
                _log.warning("%s is not usable (%s); it is rebuilt from the files.", path, error)
                for suffix in ("", "-wal", "-shm"):
                    self._folder.quarantine(path.with_name(path.name + suffix))
                self._folder.create()
                back = Index(path, wait=_PATIENCE)
        return back, Index(path, wait=_HASTE, checkpoints=False)

    def _open_for_reading(self) -> Index:
        for mode in ("ro", "immutable"):
            with suppress(sqlite3.Error):
                return Index(self._folder.index, wait=_HASTE, mode=mode)
        return Index(Path("/read-only"), wait=_HASTE, mode="memory")  # filled from the files by the sweep

    def _sweep(self) -> tuple[int, int]:
        """Bring index and files together; return how many rows had no file, and files no row. Reads no tensors."""
        with suppress(OSError):
            self._folder.remove_leftovers()
        # Rows first: one that is written meanwhile is not in this list, rather than seeming to lack its file.
        rows = {row.file: row for row in self._back.rows()}
        files = self._folder.scan()
        missing = sum(self._forget(row) for row in rows.values() if self._folder.path(row.file) not in files)
        strangers = []
        for path, size in files.items():
            row = rows.get(path.name)
            if row is None or path != self._folder.path(path.name):
                strangers.append((path, size))
            elif row.bytes != size:
                self._reject(path, CacheCorruptError(f"{path} has {size} bytes, {row.bytes} were written."))
        return missing, self._adopt(strangers)

    def _adopt(self, files: Sequence[tuple[Path, int]]) -> int:
        """Enter files that have no row, remove those whose key has another file, and evict what is too much."""
        rows = [row for path, size in files if (row := self._row_of(path, size)) is not None]
        if not self.writable and not self._back.in_memory:
            return 0
        done = self._back.commit(rows, self._take_uses(), self.max_bytes if self.writable else None)
        self._remove(done.evicted)
        for row in rows:
            if done.files[row.key] != row.file and self.writable:
                self._folder.remove(row.file)
        return sum(done.files[row.key] == row.file for row in rows)

    def _row_of(self, path: Path, size: int) -> IndexRow | None:
        try:
            if path != self._folder.path(path.name):
                raise CacheCorruptError(f"{path} does not belong there. It is moved to quarantine.")
            header, modified = read_header(path), path.stat().st_mtime_ns
        except CacheCorruptError as error:
            self._reject(path, error)
            return None
        except OSError:
            return None  # evicted by another process meanwhile, or not readable
        return IndexRow(header.key, path.name, size, header.tokens, header.namespace, modified, modified)

    def _forget(self, row: IndexRow) -> bool:
        """Remove the row of a file that is gone; return whether it was there."""
        with suppress(sqlite3.Error):
            if not self._folder.path(row.file).exists():
                return self._back.forget(row.key, row.file)
        return False

    def _reject(self, path: Path, error: CacheCorruptError) -> None:
        """Move a bad file aside and forget its row."""
        self._tally.add("quarantined")
        self.report(path.name, str(error))
        self._folder.quarantine(path)
        if path == self._folder.path(path.name):
            with suppress(sqlite3.Error):
                self._back.forget(key_of(path.name) or "", path.name)

    def report(self, about: str, message: str) -> None:
        """Log a warning, once about each thing."""
        if about not in self._reported:
            self._reported.add(about)
            _log.warning("%s", message)
