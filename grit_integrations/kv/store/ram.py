"""The RAM tier of a store."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grit_integrations.kv.blocks import KVBlock


@dataclass(frozen=True, slots=True)
class Entry:
    """A block in RAM, the namespace that it belongs to, and the bytes of its tensors."""

    block: KVBlock
    namespace: str
    nbytes: int


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
        """Return a block, and unless told otherwise note its use."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if use:
                self._entries.move_to_end(key)
            return entry.block

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

    def _pop(self, key: str) -> bool:
        entry = self._entries.pop(key, None)
        self._bytes -= entry.nbytes if entry else 0
        return entry is not None
