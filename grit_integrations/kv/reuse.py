"""What one request takes out of a store and leaves in it. Whatever fails there, the answer does not notice."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from grit_integrations.kv.keys import plan_keys
from grit_integrations.prompts.plan import PlannedBlock
from grit_integrations.results import CacheReport

if TYPE_CHECKING:
    from grit_integrations.kv.blocks import KVBlock
    from grit_integrations.kv.keys import KeySpace
    from grit_integrations.kv.policy import CachePolicy
    from grit_integrations.kv.store.store import KVCacheStore
    from grit_integrations.options import Caching
    from grit_integrations.prompts.plan import Plan

_MEASURABLE = 128  # tokens of a block from which a speed can be told


@dataclass(slots=True)
class Reuse:
    """The blocks of one prompt, looked up in a store by the caller, taken and replaced by the model's thread.

    Attributes:
        plan: the prompt.
        mode: the caching mode; `"off"` takes and leaves nothing.
        store: where blocks are.
        policy: which blocks are kept, and when reading them pays.
        space: what the keys of this model and store have in common.
    """

    plan: Plan
    mode: Caching
    store: KVCacheStore
    policy: CachePolicy
    space: KeySpace
    load_seconds: float = 0.0
    read_tokens: int = 0
    created_tokens: int = 0
    _keys: list[str] = field(default_factory=list)
    _found: dict[int, KVBlock] = field(default_factory=dict)
    _from_disk: set[int] = field(default_factory=set)
    _hits: int = 0
    _misses: int = 0
    _bytes: int = 0
    _declined: list[str] = field(default_factory=list)

    @property
    def active(self) -> bool:
        """Whether blocks are taken and kept at all."""
        return self.mode != "off"

    def look_up(self) -> None:
        """Find the prompt's blocks. Reads files, so it runs on the caller's thread and not on the model's."""
        if not self.active:
            return
        began = time.perf_counter()
        self.identify()
        speeds = self.store.speeds(self.space.hardware)
        for index, block in enumerate(self.plan.blocks):
            key = self._keys[index]
            on_disk = self.store.disk_bytes(key)
            reason = None if on_disk is None else self.policy.decline_load(len(block.ids), on_disk, speeds)
            if reason is not None:
                self._declined.append(reason)
                continue
            found = self.store.get(key)
            if found is not None and found.token_ids == block.ids:
                self._found[index] = found
                if on_disk is not None:
                    self._from_disk.add(index)
        self.load_seconds = time.perf_counter() - began
        self._measure_load()

    def identify(self) -> None:
        """Work out the keys of the prompt's blocks."""
        self._keys = plan_keys(self.plan, self.space)

    def take(self, index: int) -> KVBlock | None:
        """Return a block if it is at hand, also one that another request has read since the lookup."""
        if not self.active:
            return None
        block = self._found.pop(index, None) or self.store.peek(self._keys[index])
        if block is None or block.token_ids != self.plan.blocks[index].ids:
            self._misses += 1
            return None
        self._hits += 1
        self._bytes += block.nbytes
        self.read_tokens += len(self.plan.blocks[index].placed)
        return block

    def note_recomputed(self, tokens: int) -> None:
        """Count as computed again some tokens of the block that was taken last."""
        self.read_tokens -= tokens

    def quantises(self, block: PlannedBlock) -> bool:
        """Whether a block goes through int8, be it stored afterwards or not: a hit must not change an answer."""
        return self.active and block.document and self.store.precision == "int8"

    def keep(self, index: int, stored: KVBlock, seconds: float | None = None) -> None:
        """Leave a block that took `seconds` to compute; the suffix has the index behind the last block's."""
        if not self.active:
            return
        blocks = self.plan.blocks
        planned = blocks[index] if index < len(blocks) else PlannedBlock(self.plan.suffix)
        key = self._keys[index]
        worth_disk = planned.document and len(planned.ids) >= self.policy.min_tokens
        persist = worth_disk and self.store.admit(key, self.policy.admit_after)
        if self.store.put(key, stored, persist=persist):
            self.created_tokens += len(planned.placed)
        if seconds is not None and len(planned.ids) >= _MEASURABLE:
            self.store.record_speed(self.space.hardware, prefill=len(planned.ids) / seconds)

    def report(self) -> CacheReport:
        """Return what happened."""
        return CacheReport(
            mode=self.mode,
            hits=self._hits,
            misses=self._misses,
            declined=tuple(self._declined),
            bytes_read=self._bytes,
            seconds_saved=self._seconds_saved(),
        )

    def _measure_load(self) -> None:
        blocks = [self._found[index] for index in self._from_disk if len(self._found[index]) >= _MEASURABLE]
        if blocks and self.load_seconds > 0:
            bytes_read = sum(block.nbytes for block in blocks)
            self.store.record_speed(self.space.hardware, load=bytes_read / self.load_seconds)

    def _seconds_saved(self) -> float | None:
        if not self.active:
            return None
        prefill = self.store.speeds(self.space.hardware).prefill
        return None if prefill is None else self.read_tokens / prefill - self.load_seconds
