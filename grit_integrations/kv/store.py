"""KVCacheStore: blocks in RAM and on disk, shared by processes, bounded by bytes. A fault costs a miss, no answer."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from grit_integrations.errors import CacheCorruptError, CacheError, CacheFullError, OptionError
from grit_integrations.kv.blocks import PRECISIONS, KVBlock, Precision
from grit_integrations.kv.files import (
    Folder,
    OpenedFile,
    Stamp,
    check_file,
    file_name,
    is_key,
    key_of,
    open_file,
    read_header,
    write_file,
)
from grit_integrations.kv.index import Index, Row, Totals
from grit_integrations.kv.policy import Speeds
from grit_integrations.kv.ram import Entry, Job, RamTier, Worker
from grit_integrations.kv.sizes import format_size, parse_size

_log = logging.getLogger(__name__)

# Damaged tables make sqlite give messages, or values, that Python cannot read.
_FAULTS = (OSError, sqlite3.Error, UnicodeDecodeError, CacheError, MemoryError)
_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
_NOT_DAMAGED = ("locked", "busy", "I/O error", "unable to open", "readonly", "is full")  # what sqlite says then
_PATIENCE = 10.0  # seconds that background work waits for another process's transaction
_HASTE = 0.25  # seconds that an answer waits for one
_MOST_USES = 256  # uses that wait to be noted in the index
_USES_AGE = 5.0  # seconds that they wait at most, while there are more
_TOUCH = "touch"  # names the job that notes uses; no block has such a key
_MOST_MISSES = 50_000


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What a store holds, and what this process did with it.

    Attributes:
        blocks: blocks on disk, by all processes; `bytes` and `tokens` are theirs.
        ram_blocks: blocks in this process's RAM tier; `ram_bytes` are theirs.
        pending: writes that are queued.
        hits_ram: blocks served from RAM.
        hits_disk: blocks served from the disk.
        misses: blocks that were asked for and not there.
        written: files written.
        evicted: files deleted to stay within `max_bytes`.
        quarantined: bad files moved aside.
        read_failures: lookups that the disk or the index refused.
        write_failures: writes that the disk or the index refused.
        skipped: writes that were not queued because too much was waiting.
        too_large: blocks larger than `max_bytes`.
        namespaces: blocks and bytes on disk of each namespace.
    """

    blocks: int
    bytes: int
    tokens: int
    max_bytes: int
    ram_blocks: int
    ram_bytes: int
    pending: int
    hits_ram: int
    hits_disk: int
    misses: int
    written: int
    evicted: int
    quarantined: int
    read_failures: int
    write_failures: int
    skipped: int
    too_large: int
    namespaces: dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Verification:
    """What reading every file found.

    Attributes:
        checked: files that were read.
        intact: those that are as they were written.
        quarantined: those that were not, and foreign ones.
        missing: rows of the index whose file is gone.
        adopted: files that the index did not know.
    """

    checked: int
    intact: int
    quarantined: int
    missing: int
    adopted: int


class Tally:
    """Counts by name. Safe for threads."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, name: str, count: int = 1) -> None:
        """Count."""
        with self._lock:
            self._counts[name] += count

    def __getitem__(self, name: str) -> int:
        return self._counts[name]


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
        self._trusted: dict[str, Stamp] = {}
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
            opened = open_file(path, trusted=self._trusted.get(row.file))
        except FileNotFoundError:
            self._forget(row)
            return None
        except CacheCorruptError as error:
            self._reject(path, error)
            raise
        if len(self._trusted) > 100_000:
            self._trusted.clear()
        self._trusted[row.file] = opened.stamp
        return opened

    def known(self, keys: Sequence[str]) -> set[str]:
        """Return those of `keys` that are on disk."""
        return self._front.known(keys)

    def file_bytes(self, key: str) -> int | None:
        """Return the size of a block's file."""
        row = self._front.find(key)
        return None if row is None else row.bytes

    def save(self, key: str, block: KVBlock) -> bool:
        """Queue a block to be written; False if too much waits."""
        job = Job(partial(self._save, key, block, time.time_ns()), block, block.nbytes)
        return self.writer.submit(key, job)

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
            self.writer.submit(_TOUCH, Job(lambda _: self.note_uses()))

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
                    self._trusted[row.file] = check_file(path)
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

    def _save(self, key: str, block: KVBlock, put_at: int, job: Job) -> None:
        try:
            if not job.cancelled and not self._has(key):
                self._write(key, block, put_at, job)
        except (*_FAULTS, RuntimeError) as error:  # RuntimeError: what torch raises when a device is out of memory
            self._tally.add("write_failures")
            failure = _as_cache_error(error, self._folder.root)
            self._fail(failure)
            self.report("write", f"A KV block was not written: {failure}")

    def _fail(self, error: CacheError) -> None:
        if not self.failures:  # the first is what `flush` raises; a list of all would grow for ever
            self.failures.append(error)

    def _has(self, key: str) -> bool:
        row = self._back.find(key)
        return row is not None and self._folder.path(row.file).exists()

    def _write(self, key: str, block: KVBlock, put_at: int, job: Job) -> None:
        temporary = self._folder.temporary()
        try:
            digest, size = write_file(temporary, key, self._namespace, block)
            row = Row(key, file_name(key, digest), size, len(block), self._namespace, put_at, put_at)
            with self._commit:  # a deletion happens before, and cancels the job, or after, and deletes the file
                if size > self.max_bytes:
                    self._tally.add("too_large")
                    self._fail(_too_large(size, self.max_bytes))
                elif not job.cancelled:
                    self._register(temporary, row)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _register(self, temporary: Path, row: Row) -> None:
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

    def _remove(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._folder.remove(row.file)
            self._trusted.pop(row.file, None)
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

    def _row_of(self, path: Path, size: int) -> Row | None:
        try:
            if path != self._folder.path(path.name):
                raise CacheCorruptError(f"{path} does not belong there. It is moved to quarantine.")
            header, modified = read_header(path), path.stat().st_mtime_ns
        except CacheCorruptError as error:
            self._reject(path, error)
            return None
        except OSError:
            return None  # evicted by another process meanwhile, or not readable
        return Row(header.key, path.name, size, header.tokens, header.namespace, modified, modified)

    def _forget(self, row: Row) -> bool:
        """Remove the row of a file that is gone; return whether it was there."""
        with suppress(sqlite3.Error):
            if not self._folder.path(row.file).exists():
                self._trusted.pop(row.file, None)
                return self._back.forget(row.key, row.file)
        return False

    def _reject(self, path: Path, error: CacheCorruptError) -> None:
        """Move a bad file aside and forget its row."""
        self._tally.add("quarantined")
        self.report(path.name, str(error))
        self._folder.quarantine(path)
        if path == self._folder.path(path.name):
            self._trusted.pop(path.name, None)
            with suppress(sqlite3.Error):
                self._back.forget(key_of(path.name) or "", path.name)

    def report(self, about: str, message: str) -> None:
        """Log a warning, once about each thing."""
        if about not in self._reported:
            self._reported.add(about)
            _log.warning("%s", message)


@dataclass(slots=True)
class _Tiers:
    """What an open store works with, apart from the object that the caller holds, so that threads do not keep that."""

    ram: RamTier
    disk: Disk | None
    tally: Tally
    loader: Worker = field(default_factory=lambda: Worker("kv-loader", max_jobs=1024))
    misses: Counter[str] = field(default_factory=Counter)
    speeds: dict[str, Speeds] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    loading: list[threading.Lock] = field(default_factory=lambda: [threading.Lock() for _ in range(64)])

    def load(self, key: str) -> KVBlock | None:
        """Read a block from the disk into the RAM tier, unless another thread has just done so."""
        if self.disk is None:
            return None
        removals = self.ram.removals
        with self.loading[hash(key) % len(self.loading)]:
            if (block := self.ram.get(key)) is not None:
                return block
            opened = self.disk.load(key)
            if opened is None:
                return None
            entry = Entry(opened.block, opened.header.namespace, opened.block.nbytes, opened.source)
            self.ram.put(key, entry, removals=removals)
            return opened.block

    def prefetch(self, key: str, _: Job) -> None:
        """Read a block ahead; a fault is only counted."""
        try:
            self.load(key)
        except CacheCorruptError:
            pass  # counted and reported where it was found
        except _FAULTS:
            self.tally.add("read_failures")

    def owns(self, thread: threading.Thread) -> bool:
        """Whether a thread is the writer or the loader."""
        return self.loader.thread is thread or (self.disk is not None and self.disk.writer.thread is thread)

    def close(self) -> None:
        """Write what waits and end the threads."""
        self.loader.cancel_all()
        self.loader.close()
        if self.disk is not None:
            self.disk.close()


class KVCacheStore:
    """A persistent cache of KV blocks: a RAM tier in front of one file per block, shared by any number of processes.

    Whatever goes wrong on the disk costs a miss: it is counted in `stats()`, logged once, and raised only if `strict`.
    A damaged file is moved to quarantine and never used.

    Args:
        path: the folder, created with mode 0700 if it is not there; None keeps blocks in RAM only.
        max_bytes: bound of the files; the least recently used go first.
        ram_bytes: bound of the RAM tier of this process; 0 for none.
        precision: how blocks are to be stored. The store takes blocks as they are: who puts them quantises them.
        namespace: whose blocks these are, for `delete(namespace=...)`.
        strict: raise what is otherwise recovered from.

    Raises:
        OptionError: a size, precision or namespace that cannot be.
        CacheError: with `strict`, a path that cannot be used.

    Example:
        >>> with KVCacheStore(None, ram_bytes="64MB") as store:
        ...     store.contains(["00ff"])
        [False]
    """

    def __init__(
        self,
        path: str | Path | None,
        *,
        max_bytes: int | str = "10GB",
        ram_bytes: int | str = "512MB",
        precision: Precision = "native",
        namespace: str = "",
        strict: bool = False,
    ) -> None:
        if precision not in PRECISIONS:
            raise OptionError(f"precision={precision!r} is unknown. Options are {', '.join(PRECISIONS)}.")
        _check_namespace(namespace)
        self._path = None if path is None else Path(path)
        self._max_bytes, self._ram_bytes = parse_size(max_bytes), parse_size(ram_bytes)
        self._precision, self._namespace, self._strict = precision, namespace, strict
        self._closed = False
        self._warned: set[str] = set()
        self._tiers: _Tiers | None = None
        self._opening = threading.RLock()
        self._open()
        _STORES.add(self)

    @property
    def path(self) -> Path | None:
        """The folder, or None."""
        return self._path

    @property
    def precision(self) -> Precision:
        """How blocks are to be stored."""
        return self._precision

    @property
    def namespace(self) -> str:
        """Whose blocks these are."""
        return self._namespace

    # Blocks

    def get(self, key: str) -> KVBlock | None:
        """Return a block, from RAM or else from its checked file, or None.

        Raises:
            CacheError: with `strict`, what made the lookup fail.
        """
        if (tiers := self._open()) is None:
            return None
        block, found = tiers.ram.get(key), "hits_ram"
        if block is None and tiers.disk is not None:
            block = tiers.disk.writer.block(key)
        if block is None:
            found = "hits_disk"
            with self._recovering("read_failures"):
                block = tiers.load(key)
        tiers.tally.add("misses" if block is None else found)
        if block is not None and tiers.disk is not None:
            tiers.disk.touch(key)
        return block

    def peek(self, key: str) -> KVBlock | None:
        """Return a block if it is in RAM; counts nothing, not even as a use."""
        tiers = self._open()
        return None if tiers is None else tiers.ram.get(key, use=False)

    def put(self, key: str, block: KVBlock, *, persist: bool = True) -> bool:
        """Keep a block in RAM at once, and queue it to be written; return whether either took it.

        The block must not be changed afterwards. A key that is here already keeps the block that it has.

        Raises:
            OptionError: a key that is not 2 to 128 lower-case hexadecimal digits.
            CacheError: with `strict`, a store that is closed or cannot write; `CacheFullError` for a block that is
                larger than `max_bytes`. What fails later is raised by `flush`.
        """
        if not is_key(key):
            raise OptionError(f"{key!r} is not a key. Keys are 2 to 128 lower-case hexadecimal digits.")
        if (tiers := self._open()) is None or len(block) == 0:
            return False
        nbytes = block.nbytes
        kept = tiers.ram.put(key, Entry(block, self._namespace, nbytes))
        if persist and self._path is not None:
            with self._recovering("write_failures"):
                kept = self._queue(tiers, key, block, nbytes) or kept
        return kept

    def contains(self, keys: Sequence[str]) -> list[bool]:
        """Return for each key whether its block is in RAM, queued or on disk."""
        if (tiers := self._open()) is None:
            return [False] * len(keys)
        near = {key for key in keys if self._in_memory(tiers, key)}
        with self._recovering("read_failures"):
            if tiers.disk is not None and len(near) < len(keys):
                near |= tiers.disk.known(keys)
        return [key in near for key in keys]

    def disk_bytes(self, key: str) -> int | None:
        """Return the bytes that would have to be read from the disk; None if none would, or there is no such block."""
        tiers = self._open()
        if tiers is not None and tiers.disk is not None and not self._in_memory(tiers, key):
            with self._recovering("read_failures"):
                return tiers.disk.file_bytes(key)
        return None

    def prefetch(self, keys: Sequence[str]) -> None:
        """Read blocks from the disk into the RAM tier in the background."""
        tiers = self._open()
        if tiers is None or tiers.disk is None:
            return
        for key in keys:
            if not self._in_memory(tiers, key):
                tiers.loader.submit(key, Job(partial(tiers.prefetch, key)))

    def admit(self, key: str, after: int) -> bool:
        """Count one more miss of a key, by any process; return whether it was missed `after` times by now."""
        if after <= 1:
            return True
        if (tiers := self._open()) is None:
            return False
        if tiers.disk is not None and tiers.disk.writable:
            with self._recovering("read_failures"):
                return tiers.disk.count_miss(key) >= after
        with tiers.lock:
            if len(tiers.misses) >= _MOST_MISSES:
                tiers.misses.clear()
            tiers.misses[key] += 1
            return tiers.misses[key] >= after

    # Care

    def delete(self, keys: Sequence[str] | None = None, *, namespace: str | None = None) -> int:
        """Delete blocks by key, or all of a namespace, from RAM, index and disk; return how many there were.

        Queued writes of them are cancelled. The RAM tiers of other processes are not reached.

        Raises:
            OptionError: not exactly one of `keys` and `namespace`.
            CacheError: they could not be deleted, also without `strict`: that must not pass unnoticed.
        """
        if (keys is None) == (namespace is None):
            raise OptionError("delete() takes either keys or namespace=, exactly one of them.")
        return self._delete(keys, namespace)

    def clear(self) -> int:
        """Delete every block of every namespace, and the quarantine; return how many blocks there were.

        Raises:
            CacheError: they could not be deleted.
        """
        count = self._delete(None, None)
        if (tiers := self._open()) is not None:
            tiers.misses.clear()
            if tiers.disk is not None:
                with self._raising():
                    tiers.disk.forget_misses()
        return count

    def verify(self, *, progress: bool | None = None) -> Verification:
        """Read every file, quarantine bad ones, and bring index and files together.

        Args:
            progress: whether a bar is shown; None shows it on a terminal.

        Raises:
            CacheError: the disk or the index cannot be read.
        """
        tiers = self._open()
        if tiers is None or tiers.disk is None:
            return Verification(0, 0, 0, 0, 0)
        tiers.disk.writer.wait()
        try:
            return tiers.disk.verify(progress)
        except _FAULTS as error:
            raise _as_cache_error(error, self._path) from error

    def stats(self) -> StoreStats:
        """Return what the store holds and what this process did with it."""
        tiers, totals = self._tiers, Totals(0, 0, 0, {})
        if not self._closed and (tiers := self._open()) is not None and tiers.disk is not None:
            with self._recovering("read_failures"):
                totals = tiers.disk.totals()
        ram, tally = (tiers.ram.size, tiers.tally) if tiers else ((0, 0), Tally())
        return StoreStats(
            blocks=totals.blocks,
            bytes=totals.bytes,
            tokens=totals.tokens,
            max_bytes=self._max_bytes,
            ram_blocks=ram[0],
            ram_bytes=ram[1],
            pending=tiers.disk.writer.pending if tiers and tiers.disk else 0,
            namespaces=totals.namespaces,
            **{name: tally[name] for name in _COUNTED},
        )

    def flush(self, timeout: float | None = None) -> None:
        """Wait until everything that was put before is durable, or failed.

        Args:
            timeout: seconds to wait; None waits as long as it takes.

        Raises:
            CacheError: with `strict`, a write that failed, or `timeout` passed.
        """
        tiers = self._open()
        if tiers is None or tiers.disk is None:
            return
        with self._recovering("write_failures"):
            if not tiers.disk.writer.wait(timeout):
                raise CacheError(f"Writes were still queued after {timeout} s. Wait longer, or use a faster disk.")
            tiers.disk.note_uses()
        if self._strict and tiers.disk.failures:
            failure = tiers.disk.failures[0]
            tiers.disk.failures.clear()
            raise failure

    def close(self) -> None:
        """Write what is queued, end the threads and close the index. Blocks that were handed out stay valid.

        Raises:
            CacheError: with `strict`, a write that failed.
        """
        if self._closed:
            return
        try:
            self.flush()
        finally:
            self._closed = True
            self._finalizer()

    def __enter__(self) -> KVCacheStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Speeds

    def speeds(self, model: str) -> Speeds:
        """Return what was measured for a model, by any process."""
        if (tiers := self._open()) is None:
            return Speeds()
        near = tiers.speeds.get(model, Speeds())
        if tiers.disk is None or (near.prefill and near.load):
            return near
        found = Speeds()
        with self._recovering("read_failures"):
            found = tiers.disk.speeds(model)
        return Speeds(found.prefill or near.prefill, found.load or near.load)

    def record_speed(self, model: str, *, prefill: float | None = None, load: float | None = None) -> None:
        """Keep a first measurement: tokens a second computed, bytes a second read. Later ones change nothing."""
        if (tiers := self._open()) is None:
            return
        measured = {name: value for name, value in (("prefill", prefill), ("load", load)) if value and value > 0}
        known = self.speeds(model)
        new = {name: value for name, value in measured.items() if getattr(known, name) is None}
        if not new:
            return
        with tiers.lock:
            near = tiers.speeds.get(model, Speeds())
            tiers.speeds[model] = Speeds(
                known.prefill or near.prefill or new.get("prefill"), known.load or near.load or new.get("load")
            )
        if tiers.disk is not None and tiers.disk.writable:
            with self._recovering("write_failures"):
                tiers.disk.record_speeds(model, new)

    # Inside

    def __repr__(self) -> str:
        where = "RAM only" if self._path is None else f"{str(self._path)!r}, max_bytes={format_size(self._max_bytes)!r}"
        return f"KVCacheStore({where}, namespace={self._namespace!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {
            "path": self._path,
            "max_bytes": self._max_bytes,
            "ram_bytes": self._ram_bytes,
            "precision": self._precision,
            "namespace": self._namespace,
            "strict": self._strict,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        path = state.pop("path")
        self.__init__(path, **state)  # type: ignore[misc]

    def _open(self) -> _Tiers | None:
        """Return the tiers, opening them in a new process; None after closing.

        Raises:
            CacheError: with `strict`, after closing.
        """
        if self._closed:
            if self._strict:
                raise CacheError("The store is closed. Open a new KVCacheStore on its path.")
            return None
        if self._tiers is None:
            with self._opening:
                if self._tiers is None:
                    tiers = _Tiers(RamTier(self._ram_bytes), None, Tally())
                    if self._path is not None:
                        with self._recovering("read_failures", tiers):
                            tiers.disk = Disk(self._path, self._max_bytes, self._namespace, tiers.tally)
                    self._finalizer = weakref.finalize(self, _close, os.getpid(), tiers)
                    self._tiers = tiers
        return self._tiers

    def _in_memory(self, tiers: _Tiers, key: str) -> bool:
        if tiers.ram.get(key, use=False) is not None:
            return True
        return tiers.disk is not None and tiers.disk.writer.block(key) is not None

    def _queue(self, tiers: _Tiers, key: str, block: KVBlock, nbytes: int) -> bool:
        if tiers.disk is None or not tiers.disk.writable:
            raise CacheError(f"{self._path} cannot be written to. Blocks stay in RAM; make it writable to keep them.")
        if nbytes > self._max_bytes:
            tiers.tally.add("too_large")
            if self._strict:
                raise _too_large(nbytes, self._max_bytes)
            return False
        if tiers.disk.save(key, block):
            return True
        tiers.tally.add("skipped")
        return False

    def _delete(self, keys: Sequence[str] | None, namespace: str | None) -> int:
        if (tiers := self._open()) is None:
            return 0
        chosen = None if keys is None else [key for key in keys if is_key(key)]
        deleted = tiers.ram.remove_namespace(namespace) if chosen is None else tiers.ram.remove(chosen)
        if tiers.disk is not None:
            with self._raising():
                deleted |= tiers.disk.delete(chosen, namespace)
        return len(deleted)

    @contextmanager
    def _raising(self) -> Iterator[None]:
        try:
            yield
        except _FAULTS as error:
            raise _as_cache_error(error, self._path) from error

    @contextmanager
    def _recovering(self, counter: str, tiers: _Tiers | None = None) -> Iterator[None]:
        """Count and report a fault, and raise it only if strict. What is too large or corrupt was counted already."""
        try:
            yield
        except _FAULTS as error:
            found, tiers = _as_cache_error(error, self._path), tiers or self._tiers
            if not isinstance(error, CacheCorruptError | CacheFullError):
                if tiers is not None:
                    tiers.tally.add(counter)
                if counter not in self._warned:
                    self._warned.add(counter)
                    _log.warning("%s", found)
            if self._strict:
                raise found from error


_COUNTED = (
    "hits_ram",
    "hits_disk",
    "misses",
    "written",
    "evicted",
    "quarantined",
    "read_failures",
    "write_failures",
    "skipped",
    "too_large",
)
_STORES: weakref.WeakSet[KVCacheStore] = weakref.WeakSet()
_OF_PARENT: list[_Tiers] = []


def _leave_to_parent() -> None:
    """Make stores open anew in a forked child: sqlite connections, threads and locks are the parent's."""
    for store in list(_STORES):
        if store._tiers is not None:
            _OF_PARENT.append(store._tiers)  # never closed here: sqlite forbids that in the child
        store._finalizer.detach()
        store._tiers, store._opening = None, threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def _close(pid: int, tiers: _Tiers) -> None:
    """Close what an object left open that was collected, or is still there when Python ends."""
    if os.getpid() != pid:
        return
    if tiers.owns(threading.current_thread()):  # the collector may run there, and a thread cannot wait for itself
        threading.Thread(target=tiers.close, name="kv-closer").start()
    else:
        tiers.close()


def _check_namespace(namespace: str) -> None:
    try:
        namespace.encode()
    except (UnicodeEncodeError, AttributeError) as error:
        raise OptionError(f"namespace={namespace!r} is not a text that can be stored. Give another name.") from error


def _as_cache_error(error: BaseException, path: Path | None) -> CacheError:
    """Return the error of this package that a fault amounts to."""
    if isinstance(error, CacheError):
        return error
    if (isinstance(error, OSError) and error.errno in _FULL) or "is full" in str(error):
        return CacheFullError(f"The disk has no room at {path}: {error}. Free some, or lower max_bytes.")
    return CacheError(
        f"The KV cache at {path} cannot be used as asked ({type(error).__name__}: {error}). "
        "It needs a folder that can be read and written; path=None keeps blocks in RAM only."
    )


def _too_large(found: int, limit: int) -> CacheFullError:
    return CacheFullError(
        f"A block of {format_size(found)} is larger than max_bytes={format_size(limit)}. "
        "Raise max_bytes to keep it on disk."
    )
