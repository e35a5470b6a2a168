"""The disk tier of a store: the folder, its index and the thread that writes."""

from __future__ import annotations

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
    open_file,
    write_file,
)
from grit_integrations.kv.store.folder import Folder
from grit_integrations.kv.store.index import IndexRow
from grit_integrations.kv.store.mending import Mender
from grit_integrations.kv.store.opening import open_for_writing, open_without_writing
from grit_integrations.kv.store.recovery import FAULTS, as_cache_error, is_damage, lacks_room, too_large
from grit_integrations.kv.store.stats import Verification
from grit_integrations.kv.store.worker import Task, Worker

if TYPE_CHECKING:
    from grit_integrations.kv.blocks import KVBlock
    from grit_integrations.kv.speeds import Speeds
    from grit_integrations.kv.store.files import OpenedFile
    from grit_integrations.kv.store.index import Index, Totals
    from grit_integrations.kv.store.opening import Opened
    from grit_integrations.kv.store.stats import Tally

_MOST_USES = 256  # uses that wait to be noted in the index
_USES_AGE = 5.0  # seconds that they wait at most, while there are more
_TOUCH = "touch"  # names the task that notes uses; no block has such a key
_QUICK = 0.01  # seconds of an attempt to open that nobody notices
_SHARE = 20  # how many times longer than a slow attempt the disk is left alone after it


class Disk:
    """The disk tier: the folder, its index and the thread that writes.

    It is opened when it is first used. If that fails, or gives less than a store that can be written to, it is tried
    again: by background work each time, and by an answer when that costs next to nothing, so that neither a lock nor a
    full disk nor a shortage of descriptors lasts longer here than it lasts.

    Every method may raise OSError, sqlite3.Error or CacheError: the disk cannot be reached.
    """

    def __init__(self, root: Path, max_bytes: int, namespace: str, tally: Tally) -> None:
        self.max_bytes, self._namespace = max_bytes, namespace
        self.writer = Worker("kv-writer")
        self.failures: list[CacheError] = []
        self._folder, self._tally = Folder(root), tally
        self._mender = Mender(self._folder, max_bytes, tally)
        self._commit = threading.Lock()
        self._uses: dict[str, tuple[int, int]] = {}
        self._uses_since = time.monotonic()
        self._uses_lock = threading.Lock()
        self._opening = threading.Lock()
        self._opened: Opened | None = None
        self._failure: CacheError | None = None  # of the last attempt
        self._tried = self._closed = False
        self._totals: Totals | None = None  # when it was closed
        self._next_attempt = 0.0

    @property
    def reachable(self) -> bool:
        """Whether the index was opened."""
        return self._opened is not None

    @property
    def writable(self) -> bool:
        """Whether the store was found to be one that can be written to."""
        opened = self._opened
        return opened is not None and opened.refusal is None

    def open(self, *, writing: bool = False, patient: bool = False) -> Opened:
        """Return the index, opened if it was not.

        Args:
            writing: try again for one that can be written to, if it cannot be by now.
            patient: the same, and wait for other processes.

        Raises:
            CacheError, OSError, sqlite3.Error: why it cannot be opened.
        """
        if self._closed:
            raise CacheError(f"The KV cache at {self._folder.root} is closed. Open a new KVCacheStore there.")
        opened = self._opened
        if opened is not None and opened.refusal is None:
            if opened.inode == self._folder.index_inode():
                return opened
            self._let_go(opened)  # deleted, or another process has rebuilt it
        elif opened is not None and not writing and not patient:
            return opened
        with self._opening:
            opened = self._opened
            return opened if opened is not None and opened.refusal is None else self._try_to_open(patient)

    def distrust(self, error: BaseException) -> None:
        """Let go of an index that was found to be damaged; the next use checks it and rebuilds it from the files."""
        if (opened := self._opened) is not None and is_damage(error):
            self._let_go(opened)

    def load(self, key: str) -> OpenedFile | None:
        """Return a block whose file was checked.

        Raises:
            CacheCorruptError: the file is bad; it was quarantined.
            OSError, sqlite3.Error: as the disk and the index say.
        """
        opened = self.open()
        row = opened.front.find(key)
        if row is None:
            return None
        path = self._folder.path(row.file)
        try:
            if self._folder.has_shard(row.file):
                return open_file(path)
        except FileNotFoundError:
            pass
        except CacheCorruptError as error:
            self._mender.reject(opened.back, path, error)
            raise
        self._mender.forget(opened.back, row)
        return None

    def known(self, keys: Sequence[str]) -> set[str]:
        """Return those of `keys` that are on disk."""
        return self.open().front.known(keys)

    def file_bytes(self, key: str) -> int | None:
        """Return the size of a block's file."""
        row = self.open().front.find(key)
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
        opened = self._opened
        with suppress(sqlite3.Error):
            if opened is not None and opened.refusal is None and (uses := self._take_uses()):
                opened.back.commit([], uses, None)

    def delete(self, keys: Sequence[str] | None, namespace: str | None) -> set[str]:
        """Delete the blocks of keys, of a namespace, or (neither given) all, queued ones too; return their keys.

        Raises:
            CacheError: the folder is read-only.
            OSError, sqlite3.Error: as the disk and the index say.
        """
        opened = self.open(patient=True)
        if not opened.deletes:
            if not _chosen(opened.back, keys, namespace):
                return set()
            raise CacheError(f"{self._folder.root} cannot be written to. Delete blocks as a user who may.")
        if keys is None:
            self._mender.sweep(opened, careful=True)  # files that the index does not know have namespaces too
        ours = keys is not None or namespace in (None, self._namespace)
        deleted = self.writer.cancel(keys) if ours else set()
        with self._commit:
            deleted |= self._erase(opened.back, keys, namespace)
            self._folder.erase(deleted)  # what a cancelled task had just written
            if keys is None:
                self._folder.clear_quarantine()  # what is bad does not reliably say whose it is
        return deleted

    def _erase(self, index: Index, keys: Sequence[str] | None, namespace: str | None) -> set[str]:
        chosen = {row.key for row in _chosen(index, keys, namespace)}
        try:
            with index.deleting(keys, namespace=namespace) as rows:
                found = {row.key for row in rows}
                return found | self._folder.erase(found if keys is None else keys)
        except sqlite3.Error as error:
            if not lacks_room(error):
                raise
        erased = self._folder.erase(chosen if keys is None else keys)  # which makes the room that the index needs
        with suppress(sqlite3.Error), index.deleting(keys, namespace=namespace):
            pass  # if there is none yet: a row without a file is dropped when somebody notices
        return chosen | erased

    def verify(self, progress: bool | None) -> Verification:
        """Read every file; see `KVCacheStore.verify`."""
        opened, before = self.open(patient=True), self._tally["quarantined"]
        missing, adopted = self._mender.sweep(opened, careful=True)
        checked = intact = 0
        with tqdm(
            opened.back.rows(), "Verifying", unit="block", disable=None if progress is None else not progress
        ) as rows:
            for row in rows:
                path = self._folder.path(row.file)
                try:
                    checked += 1
                    check_file(path)
                    intact += 1
                except FileNotFoundError:
                    checked -= 1
                    missing += self._mender.forget(opened.back, row)
                except CacheCorruptError as error:
                    self._mender.reject(opened.back, path, error)
        return Verification(checked, intact, self._tally["quarantined"] - before, missing, adopted)

    def totals(self) -> Totals:
        """Return sums over all blocks; after closing, those of that moment."""
        return self._totals or self.open(patient=True).back.totals()

    def count_miss(self, key: str) -> int:
        """Note one more miss of a key; return how many there were."""
        return self.open().front.count_miss(key)

    def speeds(self, model: str) -> Speeds:
        """Return what was measured."""
        return self.open().front.speeds(model)

    def record_speeds(self, model: str, measured: dict[str, float]) -> None:
        """Keep the first measurements."""
        self.open().front.record_speeds(model, measured)

    def forget_misses(self) -> None:
        """Forget all misses."""
        opened = self.open(patient=True)
        if opened.back.is_writable:
            opened.back.forget_misses()

    def close(self) -> None:
        """Write what waits, end the thread, close the index."""
        self.writer.close()
        self.note_uses()
        self._closed = True
        if (opened := self._opened) is not None:
            with suppress(*FAULTS):
                self._totals = opened.back.totals()
            self._let_go(opened)

    # Writing, on the writer's thread

    def _save(self, key: str, block: KVBlock, put_at: int, task: Task) -> None:
        try:
            index = self._writing_index()
            if not task.cancelled and not self._has(index, key):
                self._write(index, key, block, put_at, task)
        except (*FAULTS, RuntimeError) as error:  # RuntimeError: what torch raises when a device is out of memory
            self.distrust(error)
            self._tally.add("write_failures")
            failure = as_cache_error(error, self._folder.root)
            self._fail(failure)
            self._mender.report("write", f"A KV block was not written: {failure}")

    def _fail(self, error: CacheError) -> None:
        if not self.failures:  # the first is what `flush` raises; a list of all would grow for ever
            self.failures.append(error)

    def _writing_index(self) -> Index:
        opened = self.open(writing=True)
        if opened.refusal is not None:
            raise opened.refusal
        return opened.back

    def _has(self, index: Index, key: str) -> bool:
        row = index.find(key)
        return row is not None and self._folder.holds(row.file)

    def _write(self, index: Index, key: str, block: KVBlock, put_at: int, task: Task) -> None:
        temporary = self._folder.temporary()
        try:
            digest, size = write_file(temporary, key, self._namespace, block)
            row = IndexRow(key, file_name(key, digest), size, len(block), self._namespace, put_at, put_at)
            with self._commit:  # a deletion happens before, and cancels the task, or after, and deletes the file
                if size > self.max_bytes:
                    self._tally.add("too_large")
                    self._fail(too_large(size, self.max_bytes))
                elif not task.cancelled:
                    self._register(index, temporary, row)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _register(self, index: Index, temporary: Path, row: IndexRow) -> None:
        self._folder.place(temporary, row.file)
        try:
            stale = index.find(row.key)
            if stale is not None and stale.file != row.file:
                self._mender.forget(index, stale)
            done = index.commit([row], self._take_uses(), self.max_bytes)
        except sqlite3.Error:
            self._folder.remove(row.file)  # nobody would count its bytes
            raise
        self._mender.remove_evicted(done.evicted)
        if done.files[row.key] != row.file:
            self._folder.remove(row.file)  # another process was first
        else:
            self._tally.add("written")

    def _take_uses(self) -> dict[str, tuple[int, int]]:
        with self._uses_lock:
            uses, self._uses = self._uses, {}
            self._uses_since = time.monotonic()
        return uses

    # Opening

    def _try_to_open(self, patient: bool) -> Opened:
        """Open the index; at the first attempt wait for others, as a store that is made does."""
        before, waits = self._opened, patient or not self._tried
        if not waits and time.monotonic() < self._next_attempt:
            return self._as_before(before)
        self._tried, began = True, time.monotonic()
        fill = partial(self._mender.sweep, careful=False)
        try:
            opened = open_for_writing(self._folder, fill, patient=waits)
        except FAULTS as error:
            self._failure = as_cache_error(error, self._folder.root)
            slow = 0.0 if waits else max(time.monotonic() - began - _QUICK, 0.0)
            self._next_attempt = time.monotonic() + _SHARE * slow
            opened = before or open_without_writing(self._folder, fill, error)
        self._opened = opened
        return opened

    def _as_before(self, before: Opened | None) -> Opened:
        if before is not None:
            return before
        assert self._failure is not None
        raise self._failure.with_traceback(None)

    def _let_go(self, opened: Opened) -> None:
        with self._opening:
            if self._opened is opened:
                self._opened = None
        with suppress(sqlite3.Error):
            opened.close()


def _chosen(index: Index, keys: Sequence[str] | None, namespace: str | None) -> list[IndexRow]:
    """Return the rows of keys, of a namespace, or (neither given) all."""
    wanted = None if keys is None else set(keys)
    return [row for row in index.rows() if namespace in (None, row.namespace) and (wanted is None or row.key in wanted)]
