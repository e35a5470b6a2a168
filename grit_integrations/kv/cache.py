"""The KV caches of running requests: preallocated, so that a decoded token never copies the tokens before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

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

    @classmethod
    def over(cls, keys: Tensor, values: Tensor, *, length: int = 0) -> PreallocatedLayer:
        """Return a layer on buffers that are there, (rows, kv_heads, capacity, head_dim), holding `length` tokens."""
        layer = cls(keys.shape[2], keys.dtype, keys.device)
        layer.keys, layer.values, layer.is_initialized = keys, values, True
        layer._length = length
        return layer

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


class RewrittenLayer(CacheLayerMixin):
    """One layer of a cache some of whose tokens are computed again: they replace what was held of them.

    Args:
        layer: of one request; nothing is added to it.
        rows: which of its tokens are computed, (tokens,) int64, on the layer's device.
    """

    is_sliding = False
    is_croppable = False

    def __init__(self, layer: PreallocatedLayer, rows: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._layer, self._rows = layer, rows
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the buffers are there."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write states of the tokens, (1, kv_heads, tokens, head_dim), in their places; return views of all states."""
        length = self._layer.get_seq_length()
        assert self._layer.keys is not None and self._layer.values is not None
        self._layer.keys.index_copy_(2, self._rows, key_states)
        self._layer.values.index_copy_(2, self._rows, value_states)
        return self._layer.keys[:, :, :length], self._layer.values[:, :, :length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many keys the pass attends to, and the offset of the first."""
        return self._layer.get_seq_length(), 0

    def get_seq_length(self) -> int:
        """Return how many tokens are held."""
        return self._layer.get_seq_length()

    def get_max_length(self) -> int:
        """Return -1: nothing is added."""
        return -1


def copy_rows(source: Cache, target: Cache, length: int) -> None:
    """Append the first `length` tokens of one request's cache to another's, in those layers that it has."""
    for old, new in zip(source.layers, target.layers, strict=False):
        cast(PreallocatedLayer, new).append(*cast(PreallocatedLayer, old).rows(0, length))


def preallocated_cache(devices: Sequence[torch.device], dtype: torch.dtype, capacity: int) -> Cache:
    """Return an empty cache for one request with room for `capacity` tokens in one layer on each of `devices`."""
    return Cache(layers=[PreallocatedLayer(capacity, dtype, device) for device in devices])


class RowsCache:
    """The caches of several requests in the same buffers: filled one by one, then read behind together.

    Every request begins in the first column. Behind one that is shorter than the longest are zeros, which nothing may
    attend to.

    Args:
        devices: where each layer is.
        dtype: of keys and values.
        lengths: the tokens of each request.
        room: columns for what is read behind them.
        heads: key-value heads and the coordinates of one.
    """

    def __init__(
        self,
        devices: Sequence[torch.device],
        dtype: torch.dtype,
        lengths: Sequence[int],
        *,
        room: int,
        heads: tuple[int, int],
    ) -> None:
        self.lengths = tuple(lengths)
        self.longest = max(lengths)
        kv_heads, dim = heads
        shape = (len(lengths), kv_heads, self.longest + room, dim)
        self._buffers = [(self._padded(shape, dtype, device), self._padded(shape, dtype, device)) for device in devices]

    def row(self, index: int) -> Cache:
        """Return the empty cache of one request, which writes into the common buffers."""
        row = slice(index, index + 1)
        return Cache(layers=[PreallocatedLayer.over(keys[row], values[row]) for keys, values in self._buffers])

    def whole(self) -> Cache:
        """Return the cache of all requests, behind which every row's next tokens are written."""
        length = self.longest
        return Cache(layers=[PreallocatedLayer.over(*buffers, length=length) for buffers in self._buffers])

    def _padded(self, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
        buffer = torch.empty(shape, dtype=dtype, device=device)
        for row, length in enumerate(self.lengths):
            buffer[row, :, length : self.longest] = 0  # a mask does not hide what is not a number
        return buffer
