"""KVBlock: the keys and values of one segment of a prompt, for all layers, apart from any running request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from grit_integrations.errors import CacheCorruptError
from grit_integrations.kv.cache import PreallocatedLayer

if TYPE_CHECKING:
    from grit_integrations.kv.rope import Rope
    from grit_integrations.options import Precision


_LARGEST = 127.0  # of int8, kept symmetric
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, eq=False)
class KVBlock:
    """One segment's keys and values. Tensors are never written to: requests share them.

    Keys are stored rotated (as the model caches them), for positions `position`, `position + 1`, ...

    Attributes:
        keys: (layers, kv_heads, tokens, head_dim), of `dtype`, or int8.
        values: (layers, kv_heads, tokens, head_dim), of `dtype`, or int8.
        token_ids: the tokens that were read, one per row.
        position: where the first token stood.
        dtype: the precision in which the model computes; int8 tensors become this again.
        key_scales: int8 only: one factor per channel, (layers, kv_heads, 1, head_dim) float32.
        value_scales: int8 only: one factor per token, (layers, kv_heads, tokens, 1) float32.

    Source: keys are quantised per channel and values per token, as KIVI found best (arXiv 2402.02750).
    """

    keys: Tensor
    values: Tensor
    token_ids: tuple[int, ...]
    position: int
    dtype: torch.dtype
    key_scales: Tensor | None = None
    value_scales: Tensor | None = None

    @classmethod
    def from_cache(cls, cache: Cache, start: int, token_ids: Sequence[int], *, position: int) -> KVBlock:
        """Copy the rows of `token_ids`, which begin at row `start`, out of a one-request cache into main memory."""
        stop = start + len(token_ids)
        rows = [_layer(layer).rows(start, stop) for layer in cache.layers]
        keys = torch.stack([keys.cpu() for keys, _ in rows])
        values = torch.stack([values.cpu() for _, values in rows])
        return cls(keys, values, tuple(token_ids), position, keys.dtype)

    def append_to(self, cache: Cache) -> None:
        """Write this block behind what a one-request cache holds, dequantised and moved to its devices."""
        for index, layer in enumerate(cache.layers):
            target = _layer(layer)
            keys = self._states(self.keys, self.key_scales, index, target)
            target.append(keys, self._states(self.values, self.value_scales, index, target))

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def precision(self) -> Precision:
        """Whether the tensors are as the model computed them, or int8."""
        return "native" if self.key_scales is None else "int8"

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors().values())

    def slice(self, start: int, stop: int) -> KVBlock:
        """Return the rows `start` to `stop` as views; positions stay what they are.

        Raises:
            IndexError: rows that the block does not have.
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"Rows {start} to {stop} were asked of a block of {len(self)} tokens.")
        scales = None if self.value_scales is None else self.value_scales[:, :, start:stop]
        return replace(
            self,
            keys=self.keys[:, :, start:stop],
            values=self.values[:, :, start:stop],
            token_ids=self.token_ids[start:stop],
            position=self.position + start,
            value_scales=scales,
        )

    def shifted(self, position: int, rope: Rope) -> KVBlock:
        """Return the block as if its first token stood at `position`: keys rotated in float32, values untouched.

        Raises:
            CacheError: the model's RoPE changes with the length of the prompt, so no rotation gives other positions.
        """
        if position == self.position:
            return self
        rope.check_shiftable()
        native = self.dequantised()
        return replace(native, keys=rope.rotate(native.keys, position - self.position), position=position)

    def quantised(self) -> KVBlock:
        """Return the block in int8: keys per channel, values per token. Never called exact."""
        if self.precision == "int8":
            return self
        keys, key_scales = _to_int8(self.keys, dim=2)
        values, value_scales = _to_int8(self.values, dim=3)
        return replace(self, keys=keys, values=values, key_scales=key_scales, value_scales=value_scales)

    def dequantised(self) -> KVBlock:
        """Return the block in the model's precision; a native block is returned as it is."""
        if self.key_scales is None or self.value_scales is None:
            return self
        keys = (self.keys * self.key_scales).to(self.dtype)
        values = (self.values * self.value_scales).to(self.dtype)
        return replace(self, keys=keys, values=values, key_scales=None, value_scales=None)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a file holds, by name."""
        named = {"keys": self.keys, "values": self.values, "token_ids": torch.tensor(self.token_ids, dtype=torch.int32)}
        if self.key_scales is not None and self.value_scales is not None:
            named |= {"key_scales": self.key_scales, "value_scales": self.value_scales}
        return named

    def metadata(self) -> dict[str, str]:
        """Return what a file's header says besides the tensors."""
        return {"position": str(self.position), "dtype": str(self.dtype).removeprefix("torch.")}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> KVBlock:
        """Return the block that `tensors` and `metadata` describe; the tensors are used as they are.

        Raises:
            CacheCorruptError: something is missing, or shapes and precisions contradict each other.
        """
        try:
            block = cls(
                keys=tensors["keys"],
                values=tensors["values"],
                token_ids=tuple(tensors["token_ids"].tolist()),
                position=int(metadata["position"]),
                dtype=_DTYPES[metadata["dtype"]],
                key_scales=tensors.get("key_scales"),
                value_scales=tensors.get("value_scales"),
            )
        except (KeyError, ValueError) as error:
            raise CacheCorruptError(
                f"A stored block lacks {error}. It is not used; it will be computed again."
            ) from error
        _check_shapes(block)
        return block

    def _states(self, stored: Tensor, scales: Tensor | None, index: int, target: PreallocatedLayer) -> Tensor:
        states = stored[index].to(target.device)
        return states if scales is None else (states * scales[index].to(target.device)).to(self.dtype)


def _layer(layer: object) -> PreallocatedLayer:
    assert isinstance(layer, PreallocatedLayer)
    return layer


def _to_int8(states: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return `states` in int8 and float32 factors of size 1 along `dim`, over which the largest value was taken."""
    wide = states.float()
    scales = wide.abs().amax(dim=dim, keepdim=True).clamp_min(1e-12) / _LARGEST
    return (wide / scales).round_().to(torch.int8), scales


def _check_shapes(block: KVBlock) -> None:
    tokens, stored = len(block.token_ids), torch.int8 if block.precision == "int8" else block.dtype
    shape = block.keys.shape
    good = block.keys.ndim == 4 and shape == block.values.shape and shape[2] == tokens and tokens > 0
    good = good and block.keys.dtype == block.values.dtype == stored
    if good and (block.key_scales is not None or block.value_scales is not None):
        layers, heads, _, dim = shape
        good = (
            block.key_scales is not None
            and block.value_scales is not None
            and block.key_scales.shape == (layers, heads, 1, dim)
            and block.value_scales.shape == (layers, heads, tokens, 1)
        )
    if not good:
        raise CacheCorruptError(
            f"A stored block has keys {tuple(shape)} and values {tuple(block.values.shape)} of {block.keys.dtype} for "
            f"{tokens} tokens. It is not used; it will be computed again."
        )
