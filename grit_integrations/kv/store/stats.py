"""What a store counts and reports: StoreStats, Verification, and the tally behind them."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass

COUNTED = (
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
)  # the fields of StoreStats that a Tally counts


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
