"""What is held in memory: the RAM tier, the work that waits for a background thread, and the tiers of an open store."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from grit_integrations.errors import CacheCorruptError
from grit_integrations.kv.blocks import KVBlock
from grit_integrations.kv.policy import Speeds
from grit_integrations.kv.store.files import Source
from grit_integrations.kv.store.recovery import FAULTS
from grit_integrations.kv.store.stats import Tally

if TYPE_CHECKING:
    from grit_integrations.kv.store.disk import Disk  # which imports `Worker` from here

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """A block in RAM; `source` is set if its tensors are a mapped file rather than memory of their own."""

    block: KVBlock
    namespace: str
    nbytes: int
    source: Source | None = None


class RamTier:
    """Blocks by key, least recently used out first, bounded by bytes. Safe for threads.

    Args:
        max_bytes: bytes of tensors that may stay; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._bytes = 0
        self._removals = 0
        self._lock = threading.Lock()

    @property
    def removals(self) -> int:
        """How often blocks were removed on purpose: what was read before a removal must not be put after it."""
        return self._removals

    @property
    def size(self) -> tuple[int, int]:
        """How many blocks there are, and their bytes."""
        with self._lock:
            return len(self._entries), self._bytes

    def get(self, key: str, *, use: bool = True) -> KVBlock | None:
        """Return a block, and unless told otherwise note its use. One whose file was altered is dropped."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and use:
                self._entries.move_to_end(key)
        if entry is None or entry.source is None or entry.source.is_sound():
            return None if entry is None else entry.block
        self._drop(key, entry)
        return None

    def put(self, key: str, entry: Entry, *, removals: int | None = None) -> bool:
        """Keep a block if it fits and nothing was removed since `removals` was read; one that is here stays."""
        with self._lock:
            if entry.nbytes > self.max_bytes or removals not in (None, self._removals):
                return False
            if key in self._entries:
                self._entries.move_to_end(key)
                return True
            self._entries[key] = entry
            self._bytes += entry.nbytes
            while self._bytes > self.max_bytes:
                self._bytes -= self._entries.popitem(last=False)[1].nbytes
            return True

    def remove(self, keys: Iterable[str]) -> set[str]:
        """Remove blocks; return which were here."""
        with self._lock:
            self._removals += 1
            return {key for key in keys if self._pop(key)}

    def remove_namespace(self, namespace: str | None) -> set[str]:
        """Remove the blocks of one namespace, or all; return their keys."""
        with self._lock:
            self._removals += 1
            keys = [key for key, entry in self._entries.items() if namespace in (None, entry.namespace)]
            return {key for key in keys if self._pop(key)}

    def _drop(self, key: str, entry: Entry) -> None:
        with self._lock:
            if self._entries.get(key) is entry:
                self._pop(key)

    def _pop(self, key: str) -> bool:
        entry = self._entries.pop(key, None)
        self._bytes -= entry.nbytes if entry else 0
        return entry is not None


@dataclass(slots=True, eq=False)
class Job:
    """Work for a `Worker`. `run` gets the job, so that it can see whether it was cancelled meanwhile."""

    run: Callable[[Job], None]
    block: KVBlock | None = None
    nbytes: int = 0
    cancelled: bool = False
    number: int = 0


class Worker:
    """A daemon thread that does jobs in order, one per key, bounded by the bytes that wait. Starts with the first.

    Args:
        name: of the thread.
        max_bytes: how much may wait; a job beyond it is refused.
        max_jobs: how many may wait.
    """

    def __init__(self, name: str, *, max_bytes: int = 1 << 30, max_jobs: int = 100_000) -> None:
        self._name, self._max_bytes, self._max_jobs = name, max_bytes, max_jobs
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._current: tuple[str, Job] | None = None
        self._bytes = self._last = 0
        self._stopping = False
        self.thread: threading.Thread | None = None
        self._changed = threading.Condition()

    @property
    def pending(self) -> int:
        """Jobs that wait or run."""
        with self._changed:
            return len(self._jobs) + (self._current is not None)

    def submit(self, key: str, job: Job) -> bool:
        """Queue a job, unless one of its key waits; False if there is no room or the worker was closed."""
        with self._changed:
            if self._stopping:
                return False
            if key in self._jobs or (self._current and self._current[0] == key and not self._current[1].cancelled):
                return True
            if (self._jobs or self._current) and self._bytes + job.nbytes > self._max_bytes:
                return False
            if len(self._jobs) >= self._max_jobs:
                return False
            self._last += 1
            job.number = self._last
            self._jobs[key] = job
            self._bytes += job.nbytes
            self._start()
            self._changed.notify_all()
            return True

    def block(self, key: str) -> KVBlock | None:
        """Return the block whose job waits or runs."""
        with self._changed:
            job = self._jobs.get(key)
            if job is None and self._current and self._current[0] == key and not self._current[1].cancelled:
                job = self._current[1]
            return None if job is None else job.block

    def cancel(self, keys: Iterable[str] | None) -> set[str]:
        """Cancel the jobs of `keys`, or all, that hold a block; return their keys."""
        with self._changed:
            wanted = None if keys is None else set(keys)
            chosen = [
                key for key, job in self._jobs.items() if job.block is not None and (wanted is None or key in wanted)
            ]
            for key in chosen:
                self._bytes -= self._jobs.pop(key).nbytes
            cancelled = set(chosen)
            key, job = self._current or ("", None)
            if job is not None and job.block is not None and not job.cancelled and (wanted is None or key in wanted):
                job.cancelled = True
                cancelled.add(key)
            self._changed.notify_all()
            return cancelled

    def cancel_all(self) -> None:
        """Drop the jobs that wait."""
        with self._changed:
            self._jobs.clear()
            self._bytes = 0 if self._current is None else self._current[1].nbytes
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every job that was queued before is done; False if `timeout` seconds were not enough."""
        deadline = None if timeout is None else monotonic() + timeout
        with self._changed:
            last = self._last
            while self._first() <= last:
                left = None if deadline is None else deadline - monotonic()
                if (left is not None and left <= 0) or self.thread is threading.current_thread():
                    return False
                self._changed.wait(left)
            return True

    def close(self) -> None:
        """Do what waits, then end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self.thread is not None and self.thread is not threading.current_thread():
            self.thread.join()

    def _first(self) -> float:
        """Return the number of the oldest job that is not done."""
        if self._current is not None:
            return self._current[1].number
        return next((job.number for job in self._jobs.values()), float("inf"))

    def _start(self) -> None:
        if self.thread is None:
            self.thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self.thread.start()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            self._run(job)

    def _run(self, job: Job) -> None:
        try:
            job.run(job)
        except Exception:
            # A job handles its own errors; one that forgot must not end the thread that flush waits for.
            _log.exception("%s: a job failed.", self._name)

    def _next(self) -> Job | None:
        with self._changed:
            if self._current is not None:
                self._bytes -= self._current[1].nbytes
                self._current = None
                self._changed.notify_all()
            while not self._jobs and not self._stopping:
                self._changed.wait()
            if not self._jobs:
                return None
            self._current = self._jobs.popitem(last=False)
            return self._current[1]


@dataclass(slots=True)
class Tiers:
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
        except FAULTS:
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


def close_tiers(pid: int, tiers: Tiers) -> None:
    """Close what an object left open that was collected, or is still there when Python ends."""
    if os.getpid() != pid:
        return
    if tiers.owns(threading.current_thread()):  # the collector may run there, and a thread cannot wait for itself
        threading.Thread(target=tiers.close, name="kv-closer").start()
    else:
        tiers.close()
