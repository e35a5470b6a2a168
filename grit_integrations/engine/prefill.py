"""Reading a prompt block by block: stored blocks are written into the request's cache, the others computed.

One code path for hit and miss: a block is computed from the same tokens behind the same keys and values, whether it is
then kept or had been kept before, so both leave the same bits in the cache.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from grit_integrations.engine.recompute import Recompute
from grit_integrations.kv.blocks import KVBlock
from grit_integrations.kv.cache import PreallocatedLayer, preallocated_cache
from grit_integrations.kv.rope import Rope

if TYPE_CHECKING:
    from grit_integrations.engine.encoder import Encoder
    from grit_integrations.kv.reuse import Reuse
    from grit_integrations.prompts.plan import PlannedBlock


@dataclass(slots=True)
class Reading:
    """A prompt that is being read: its cache, and how far it has come."""

    reuse: Reuse
    cache: Cache
    at: int = 0
    place_seconds: float = 0.0  # spent on writing stored blocks into the cache

    @property
    def done(self) -> bool:
        """Whether all blocks are in the cache; the suffix is still to be read."""
        return self.at == len(self.reuse.plan.blocks)


class Prefill:
    """Fills the caches of requests, each with one block at a time."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._weights = encoder.weights
        self._lm = encoder.weights.lm
        self._decoder = encoder.weights.lm.get_decoder()
        self._devices = encoder.weights.layer_devices
        self._recompute = Recompute(encoder.weights)
        self.rope = Rope.of(self._decoder)

    def begin(self, reuse: Reuse, *, room: int) -> Reading:
        """Return a reading of a prompt; nothing is computed yet. `room` is for tokens behind the prompt."""
        return Reading(reuse, preallocated_cache(self._devices, self._weights.dtype, len(reuse.plan) + room))

    @torch.inference_mode()
    def advance(self, reading: Reading) -> None:
        """Write the blocks at hand into the cache, and compute at most one that is not, or some of one that is."""
        blocks = reading.reuse.plan.blocks
        while not reading.done:
            planned = blocks[reading.at]
            stored = reading.reuse.take(reading.at)
            if stored is None:
                self._compute(reading, planned)
            else:
                began = time.perf_counter()
                self._place(reading.cache, planned, stored)
                reading.place_seconds += time.perf_counter() - began
            again = self._recompute(reading.cache, planned)
            if stored is not None:
                reading.reuse.note_recomputed(again)
            reading.at += 1
            if stored is None or again:
                return

    @torch.inference_mode()
    def last_logits(self, reading: Reading) -> Tensor:
        """Read the suffix and return the logits behind it, (1, vocab) float32."""
        return self.logits(reading.cache, reading.reuse.plan.suffix)

    @torch.inference_mode()
    def logits(self, cache: Cache, ids: tuple[int, ...]) -> Tensor:
        """Read `ids` behind what `cache` holds and return the last position's logits, (1, vocab) float32."""
        output = self._lm(input_ids=self._tensor(ids), past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits: Tensor = output.logits[:, -1].float()
        return logits

    @torch.inference_mode()
    def keep_suffix(self, reading: Reading) -> None:
        """Keep the suffix that `last_logits` has read: in the conversation's next prompt it is a block."""
        plan = reading.reuse.plan
        if reading.reuse.active:
            start = len(plan) - len(plan.suffix)
            block = KVBlock.from_cache(reading.cache, start, plan.suffix, position=start)
            reading.reuse.keep(len(plan.blocks), block)

    def _compute(self, reading: Reading, planned: PlannedBlock) -> None:
        began = time.perf_counter()
        if planned.pattern == "causal":
            stored = self._read_causally(reading, planned)
        else:
            stored = self._read_by_itself(planned)
            if reading.reuse.quantises(planned):
                stored = stored.quantised()
            self._place(reading.cache, planned, stored)
        if stored is not None:
            reading.reuse.keep(reading.at, stored, time.perf_counter() - began)

    def _read_by_itself(self, planned: PlannedBlock) -> KVBlock:
        if planned.pattern == "bidirectional":
            return self._encoder.read(planned.ids)[1]
        cache = preallocated_cache(self._devices, self._weights.dtype, len(planned.ids))
        decoder: Any = self._decoder
        decoder(input_ids=self._tensor(planned.ids), past_key_values=cache, use_cache=True)
        return KVBlock.from_cache(cache, 0, planned.ids, position=0)

    def _read_causally(self, reading: Reading, planned: PlannedBlock) -> KVBlock | None:
        cache, start = reading.cache, reading.cache.get_seq_length()
        decoder: Any = self._decoder
        decoder(input_ids=self._tensor(planned.ids), past_key_values=cache, use_cache=True)
        if not reading.reuse.active:
            return None
        block = KVBlock.from_cache(cache, start, planned.ids, position=start)
        if reading.reuse.quantises(planned):
            block = block.quantised()
            for layer in cache.layers:
                cast(PreallocatedLayer, layer).rewind(start)
            block.append_to(cache)
        return block

    def _place(self, cache: Cache, planned: PlannedBlock, stored: KVBlock) -> None:
        if planned.by_itself:
            stored = stored.dequantised().slice(planned.drop, len(stored))
            stored = stored.shifted(cache.get_seq_length(), self.rope)
        stored.append_to(cache)

    def _tensor(self, ids: tuple[int, ...]) -> Tensor:
        return torch.tensor([ids], device=self._weights.device)
