"""Moving cached keys to other positions: rotary embeddings are relative, so a rotation is all it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from grit_integrations.errors import CacheError

# Kinds whose angles per position are the same for prompts of any length, so that rotations add up.
SHIFTABLE = ("default", "linear", "llama3", "yarn", "proportional")


@dataclass(frozen=True, slots=True)
class Rope:
    """How one model rotates its keys.

    Attributes:
        kind: transformers' `rope_type`.
        frequencies: radians per position, (rotary_dim / 2,) float32; (layers, rotary_dim / 2) where layers differ.
    """

    kind: str
    frequencies: Tensor

    @classmethod
    def of(cls, decoder: nn.Module) -> Rope:
        """Read the rotation off a decoder's `rotary_emb`."""
        module: Any = decoder.rotary_emb
        kind = getattr(module, "rope_type", "default")
        if isinstance(kind, Mapping):  # of each type of layer, as Gemma 3's, whose local layers rotate faster
            config: Any = decoder.config
            least = min(kind.values(), key=lambda each: each in SHIFTABLE)
            own = [getattr(module, f"{layer}_inv_freq") for layer in config.layer_types]
            return cls(str(least), torch.stack(own).float())
        frequencies = module.inv_freq
        assert isinstance(frequencies, Tensor)
        return cls(str(kind), frequencies.float())

    def check_shiftable(self) -> None:
        """Refuse kinds whose angles depend on the length of the whole prompt.

        Raises:
            CacheError: with the kind and what can be used instead.
        """
        if self.kind not in SHIFTABLE:
            raise CacheError(
                f"This model's RoPE is of the kind {self.kind!r}, whose angles change with the length of the prompt, "
                f"so a document cannot be moved to another position exactly (kinds that can: {', '.join(SHIFTABLE)}). "
                "Use caching='prefix' or 'off'."
            )

    def rotate(self, keys: Tensor, by: int) -> Tensor:
        """Return rotated keys, moved `by` positions; computed in float32, in the precision given.

        Args:
            keys: (..., head_dim); (layers, kv_heads, tokens, head_dim) where layers differ.
            by: may be negative.
        """
        angles = self.frequencies.to(keys.device) * by
        if angles.ndim > 1:
            angles = angles[:, None, None]
        cos, sin = angles.cos(), angles.sin()  # (rotary_dim / 2,), or (layers, 1, 1, rotary_dim / 2)
        half = angles.shape[-1]
        first, second = keys[..., :half].float(), keys[..., half : 2 * half].float()
        moved = torch.empty_like(keys, memory_format=torch.contiguous_format)
        moved[..., :half] = first * cos - second * sin
        moved[..., half : 2 * half] = second * cos + first * sin
        moved[..., 2 * half :] = keys[..., 2 * half :]
        return moved
