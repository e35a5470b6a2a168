"""Scaled dot-product attention for tokens that stand behind a long cache, without copying the cache.

Models of this kind have several query heads for each key-value head. With a mask, transformers' own function repeats
the keys and values for every query head; behind 4,000 tokens that copy takes a quarter of the attention's time. Here
the query heads of a group are laid behind each other instead, as rows of one head: the same products, no copy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from grit_integrations.loading.kernels import GROUPED


def register() -> str:
    """Make the function known to transformers, and return the name by which models ask for it."""
    AttentionInterface.register(GROUPED, grouped_attention)
    AttentionMaskInterface.register(GROUPED, sdpa_mask)
    return GROUPED


def grouped_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Return attended values, (rows, new, heads, head_dim), and no weights.

    Args:
        module: the attention layer.
        query: (rows, heads, new, head_dim).
        key: (rows, kv_heads, all, head_dim), as `value`.
        attention_mask: (rows, 1, new, all), true where attended, or `None` for one new token that attends to all.
        **options: transformers' own; see its `sdpa_attention_forward`, which does whatever is not done here.
    """
    rows, heads, new, dim = query.shape
    kv_heads, length = key.shape[1:3]
    alone = attention_mask is None and new == 1
    masked = attention_mask is not None and new < length and attention_mask.shape[1] == 1
    if heads == kv_heads or query.device.type != "cpu" or not (alone or masked) or options.get("dropout"):
        result: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return result
    groups = heads // kv_heads
    packed = query.reshape(rows, kv_heads, groups * new, dim)
    mask = None if attention_mask is None else _additive(attention_mask, query.dtype).repeat(1, 1, groups, 1)
    attended = nn.functional.scaled_dot_product_attention(
        packed, key, value, attn_mask=mask, scale=options.get("scaling")
    )
    return attended.reshape(rows, heads, new, dim).transpose(1, 2).contiguous(), None


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask.logical_not(), float("-inf"))
