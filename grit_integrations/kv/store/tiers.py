"""The tiers of an open store: RAM in front of the disk, and the threads between them."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from grit_integrations.errors import CacheCorruptError
from grit_integrations.kv.speeds import Speeds
from grit_integrations.kv.store.ram import Entry
from grit_integrations.kv.store.recovery import FAULTS
from grit_integrations.kv.store.worker import Worker

if TYPE_CHECKING:
    from grit_integrations.kv.blocks import KVBlock
    from grit_integrations.kv.store.disk import Disk
    from grit_integrations.kv.store.ram import RamTier
    from grit_integrations.kv.store.stats import Tally
    from grit_integrations.kv.store.worker import Task

_MOST_MISSES = 50_000  # keys counted


@dataclass(slots=True)
class Tiers:
    """What an open store works with, apart from the object that the caller holds, so that threads do not keep that."""

    ram: RamTier
    disk: Disk | None
    tally: Tally
    loader: Worker = field(default_factory=lambda: Worker("kv-loader", max_tasks=1024))
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
            entry = Entry(opened.block, opened.header.namespace, opened.block.nbytes)
            self.ram.put(key, entry, removals=removals)
            return opened.block

    def prefetch(self, key: str, _: Task) -> None:
        """Read a block ahead; a fault is only counted."""
        try:
            self.load(key)
        except CacheCorruptError:
            pass  # counted and reported where it was found
        except FAULTS:
            self.tally.add("read_failures")

    def in_memory(self, key: str) -> bool:
        """Whether a block is in RAM, or waits there to be written."""
        if self.ram.get(key, use=False) is not None:
            return True
        return self.disk is not None and self.disk.writer.block(key) is not None

    def count_miss(self, key: str) -> int:
        """Count one more miss of a key by this process; return how many there were."""
        with self.lock:
            if len(self.misses) >= _MOST_MISSES:
                self.misses.clear()
            self.misses[key] += 1
            return self.misses[key]

    def delete(self, keys: Sequence[str] | None, namespace: str | None) -> int:
        """Delete blocks by key, or all of a namespace, or all; return how many there were."""
        deleted = self.ram.remove_namespace(namespace) if keys is None else self.ram.remove(keys)
        if self.disk is not None:
            deleted |= self.disk.delete(keys, namespace)
        return len(deleted)

    def known_speeds(self, model: str) -> Speeds:
        """Return what was measured for a model, by any process."""
        near = self.speeds.get(model, Speeds())
        if self.disk is None or not self.disk.reachable or (near.prefill and near.load):
            return near
        found = self.disk.speeds(model)
        return Speeds(found.prefill or near.prefill, found.load or near.load)

    def record_speeds(self, model: str, *, prefill: float | None, load: float | None) -> None:
        """Keep first measurements; those that are known already change nothing."""
        known = self.known_speeds(model)
        measured = {"prefill": known.prefill or _positive(prefill), "load": known.load or _positive(load)}
        new = {name: value for name, value in measured.items() if value and getattr(known, name) is None}
        if not new:
            return
        with self.lock:
            self.speeds[model] = Speeds(**measured)
        if self.disk is not None and self.disk.writable:
            self.disk.record_speeds(model, new)

    def distrust(self, error: BaseException) -> None:
        """Let go of an index that a fault shows to be damaged."""
        if self.disk is not None:
            self.disk.distrust(error)

    def owns(self, thread: threading.Thread) -> bool:
        """Whether a thread is the writer or the loader."""
        return self.loader.thread is thread or (self.disk is not None and self.disk.writer.thread is thread)

    def close(self) -> None:
        """Write what waits and end the threads."""
        self.loader.cancel_all()
        self.loader.close()
        if self.disk is not None:
            self.disk.close()


def _positive(speed: float | None) -> float | None:
    return speed if speed and speed > 0 else None


def close_tiers(pid: int, tiers: Tiers) -> None:
    """Close what an object left open that was collected, or is still there when Python ends."""
    if os.getpid() != pid:
        return
    if tiers.owns(threading.current_thread()):  # the collector may run there, and a thread cannot wait for itself
        threading.Thread(target=tiers.close, name="kv-closer").start()
    else:
        tiers.close()
