"""The KV cache of one running request: preallocated, so that a decoded token never copies the tokens before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class PreallocatedLayer(CacheLayerMixin):
    """One layer's keys and values in a buffer with room to grow.

    transformers' `DynamicLayer` concatenates at each token, which at 4,000 tokens costs more than the attention
    itself. Here a token is written in place; a full buffer doubles.
    """

    is_sliding = False
    is_croppable = False

    def __init__(self, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._capacity = capacity
        self.dtype, self.device = dtype, device
        self._length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the buffers for states of this shape."""
        self.keys = self._buffer(key_states)  # (rows, kv_heads, capacity, head_dim)
        self.values = self._buffer(value_states)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write new states, (rows, kv_heads, new, head_dim), and return views of all states so far."""
        end = self._length + key_states.shape[-2]
        self._make_room(end, key_states, value_states)
        assert self.keys is not None and self.values is not None
        self.keys[:, :, self._length : end] = key_states
        self.values[:, :, self._length : end] = value_states
        self._length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Write stored states, each (kv_heads, new, head_dim), behind those held."""
        end = self._length + keys.shape[-2]
        self._make_room(end, keys.unsqueeze(0), values.unsqueeze(0))
        assert self.keys is not None and self.values is not None
        self.keys[0, :, self._length : end] = keys
        self.values[0, :, self._length : end] = values
        self._length = end

    def rewind(self, length: int) -> None:
        """Forget every token behind the first `length`."""
        assert length <= self._length
        self._length = length

    def rows(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return views of the only request's keys and values, each (kv_heads, stop - start, head_dim)."""
        assert self.keys is not None and self.values is not None
        return self.keys[0, :, start:stop], self.values[0, :, start:stop]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many keys the next pass attends to, and the offset of the first."""
        return self._length + query_length, 0

    def get_seq_length(self) -> int:
        """Return how many tokens are held."""
        return self._length

    def get_max_length(self) -> int:
        """Return -1: the buffer grows as needed."""
        return -1

    def _make_room(self, end: int, keys: Tensor, values: Tensor) -> None:
        if not self.is_initialized:
            self._capacity = max(self._capacity, end)
            self.lazy_initialization(keys, values)
        elif end > self._capacity:
            self._grow(end)

    def _buffer(self, like: Tensor) -> Tensor:
        rows, heads, _, dim = like.shape
        return torch.empty((rows, heads, self._capacity, dim), dtype=self.dtype, device=self.device)

    def _grow(self, needed: int) -> None:
        self._capacity = max(needed, 2 * self._capacity)
        self.keys, self.values = self._enlarged(self.keys), self._enlarged(self.values)

    def _enlarged(self, old: Tensor | None) -> Tensor:
        assert old is not None
        new = self._buffer(old)
        new[:, :, : self._length] = old[:, :, : self._length]
        return new


def preallocated_cache(devices: Sequence[torch.device], dtype: torch.dtype, capacity: int) -> Cache:
    """Return an empty cache for one request with room for `capacity` tokens in one layer on each of `devices`."""
    return Cache(layers=[PreallocatedLayer(capacity, dtype, device) for device in devices])
