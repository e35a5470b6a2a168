"""KVCacheStore: blocks in RAM and on disk, shared by processes, bounded by bytes. A fault costs a miss, no answer."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grit_integrations.errors import CacheError, OptionError
from grit_integrations.kv.keys import check_namespace
from grit_integrations.kv.sizes import format_size, parse_size
from grit_integrations.kv.speeds import Speeds
from grit_integrations.kv.store.disk import Disk
from grit_integrations.kv.store.faults import Recovery
from grit_integrations.kv.store.files import is_key
from grit_integrations.kv.store.forks import reopen_in_children
from grit_integrations.kv.store.index import Totals
from grit_integrations.kv.store.marker import own_folder
from grit_integrations.kv.store.ram import Entry, RamTier
from grit_integrations.kv.store.recovery import too_large
from grit_integrations.kv.store.stats import COUNTED, StoreStats, Tally, Verification
from grit_integrations.kv.store.tiers import Tiers, close_tiers
from grit_integrations.kv.store.worker import Task
from grit_integrations.options import PRECISIONS

if TYPE_CHECKING:
    from grit_integrations.kv.blocks import KVBlock
    from grit_integrations.options import Precision


class KVCacheStore:
    """A persistent cache of KV blocks: a RAM tier in front of one file per block, shared by any number of processes.

    Whatever goes wrong on the disk costs a miss: it is counted in `stats()`, logged once, and raised only if `strict`.
    A damaged file is moved to quarantine and never used.

    Args:
        path: the folder, created with mode 0700 if it is not there; None keeps blocks in RAM only. It must be empty, or
            a store's; a relative one stays where it is when the process changes its directory.
        max_bytes: bound of the files; the least recently used go first.
        ram_bytes: bound of the RAM tier of this process; 0 for none.
        precision: how blocks are to be stored. The store takes blocks as they are: who puts them quantises them.
        namespace: whose blocks these are, for `delete(namespace=...)`.
        strict: raise what is otherwise recovered from.

    Raises:
        OptionError: a path, size, precision or namespace that cannot be.
        CacheError: a folder that holds other files; with `strict`, any path that cannot be used.

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
        check_namespace(namespace)
        self._path = None if path is None else own_folder(path)
        self._max_bytes, self._ram_bytes = parse_size(max_bytes), parse_size(ram_bytes)
        self._precision, self._namespace, self._strict = precision, namespace, strict
        self._closed = False
        self._recovery = Recovery(self._path, strict=strict)
        self._tiers: Tiers | None = None
        self._opening = threading.RLock()
        self._open()
        reopen_in_children(self)

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
        if (tiers := self._open()) is None or not is_key(key):
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
        near = {key for key in keys if tiers.in_memory(key)}
        with self._recovering("read_failures"):
            if tiers.disk is not None and (far := [key for key in keys if key not in near and is_key(key)]):
                near |= tiers.disk.known(far)
        return [key in near for key in keys]

    def disk_bytes(self, key: str) -> int | None:
        """Return the bytes that would have to be read from the disk; None if none would, or there is no such block."""
        tiers = self._open()
        if tiers is not None and tiers.disk is not None and is_key(key) and not tiers.in_memory(key):
            with self._recovering("read_failures"):
                return tiers.disk.file_bytes(key)
        return None

    def prefetch(self, keys: Sequence[str]) -> None:
        """Read blocks from the disk into the RAM tier in the background."""
        tiers = self._open()
        if tiers is None or tiers.disk is None:
            return
        for key in keys:
            if is_key(key) and not tiers.in_memory(key):
                tiers.loader.submit(key, Task(partial(tiers.prefetch, key)))

    def admit(self, key: str, after: int) -> bool:
        """Count one more miss of a key, by any process; return whether it was missed `after` times by now."""
        if after <= 1:
            return True
        if (tiers := self._open()) is None or not is_key(key):
            return False
        if tiers.disk is not None and tiers.disk.writable:
            with self._recovering("read_failures"):
                return tiers.disk.count_miss(key) >= after
        return tiers.count_miss(key) >= after

    # Care

    def delete(self, keys: Sequence[str] | None = None, *, namespace: str | None = None) -> int:
        """Delete blocks by key, or all of a namespace, from RAM, index and disk; return how many there were.

        Queued writes of them are cancelled. The RAM tiers of other processes are not reached.

        Raises:
            OptionError: not exactly one of `keys` and `namespace`, or a namespace that cannot be.
            CacheError: they could not be deleted, also without `strict`: that must not pass unnoticed.
        """
        if (keys is None) == (namespace is None):
            raise OptionError("delete() takes either keys or namespace=, exactly one of them.")
        if namespace is not None:
            check_namespace(namespace)
        return self._delete(keys, namespace)

    def clear(self) -> int:
        """Delete every block of every namespace, and the quarantine; return how many blocks there were.

        Raises:
            CacheError: they could not be deleted.
        """
        count = self._delete(None, None)
        if (tiers := self._reachable()) is not None:
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
            CacheError: the disk or the index cannot be read, or the store is closed.
        """
        tiers = self._reachable()
        if tiers is None or tiers.disk is None:
            return Verification(0, 0, 0, 0, 0)
        tiers.disk.writer.wait()
        with self._raising():
            return tiers.disk.verify(progress)

    def stats(self) -> StoreStats:
        """Return what the store holds, or held when it was closed, and what this process did with it.

        Raises:
            CacheError: the index cannot be read: zeros would say that there is nothing.
        """
        tiers, totals = self._tiers if self._closed else self._open(), Totals(0, 0, 0, {})
        if tiers is not None and tiers.disk is not None:
            with self._raising():
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
            **{name: tally[name] for name in COUNTED},
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

    def __exit__(self, *_: object) -> None:
        self.close()

    # Speeds

    def speeds(self, model: str) -> Speeds:
        """Return what was measured for a model, by any process."""
        if (tiers := self._open()) is None:
            return Speeds()
        with self._recovering("read_failures"):
            return tiers.known_speeds(model)
        return tiers.speeds.get(model, Speeds())

    def record_speed(self, model: str, *, prefill: float | None = None, load: float | None = None) -> None:
        """Keep a first measurement: tokens a second computed, bytes a second read. Later ones change nothing."""
        if (tiers := self._open()) is not None:
            with self._recovering("write_failures"):
                tiers.record_speeds(model, prefill=prefill, load=load)

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

    def _open(self) -> Tiers | None:
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
                    tiers = Tiers(RamTier(self._ram_bytes), None, Tally())
                    if self._path is not None:
                        tiers.disk = Disk(self._path, self._max_bytes, self._namespace, tiers.tally)
                        with self._recovery.recovering("read_failures", tiers):
                            tiers.disk.open()
                    self._finalizer = weakref.finalize(self, close_tiers, os.getpid(), tiers)
                    self._tiers = tiers
        return self._tiers

    def _reachable(self) -> Tiers | None:
        """Return the tiers for who must not be told that there is nothing; None after closing a store without a disk.

        Raises:
            CacheError: the store has a disk, and is closed.
        """
        if self._closed and self._path is not None:
            raise CacheError(f"The store is closed. Open a new KVCacheStore on {self._path}.")
        return self._open()

    def _queue(self, tiers: Tiers, key: str, block: KVBlock, nbytes: int) -> bool:
        assert tiers.disk is not None
        if (refusal := tiers.disk.open(writing=True).refusal) is not None:
            raise refusal
        if nbytes > self._max_bytes:
            tiers.tally.add("too_large")
            if self._strict:
                raise too_large(nbytes, self._max_bytes)
            return False
        if tiers.disk.save(key, block):
            return True
        tiers.tally.add("skipped")
        return False

    def _delete(self, keys: Sequence[str] | None, namespace: str | None) -> int:
        if (tiers := self._reachable()) is None:
            return 0
        chosen = None if keys is None else [key for key in keys if is_key(key)]
        with self._raising():
            return tiers.delete(chosen, namespace)

    def leave_to_parent(self) -> Tiers | None:
        """Open anew in this forked child; return what must not be closed here."""
        tiers = self._tiers
        self._finalizer.detach()
        self._tiers, self._opening = None, threading.RLock()
        return tiers

    def _raising(self) -> AbstractContextManager[None, bool | None]:
        return self._recovery.raising(self._tiers)

    def _recovering(self, counter: str) -> AbstractContextManager[None, bool | None]:
        return self._recovery.recovering(counter, self._tiers)
