"""Attention of a training pass in bfloat16 on a CPU, as plain matrix products.

torch's fused kernel keeps the weights of no token in memory, and computes them again on the way back, in small products
that a CPU is slow at: a third of a step on a 135M-parameter model. Passages are short, so their weights fit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PRODUCTS = "grit_products"


def register() -> str:
    """Make the function known to transformers, and return the name by which models ask for it."""
    AttentionInterface.register(PRODUCTS, product_attention)
    AttentionMaskInterface.register(PRODUCTS, sdpa_mask)
    return PRODUCTS


def product_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Return attended values, (rows, tokens, heads, head_dim), and no weights.

    Without gradients, a mask or bfloat16, and elsewhere than on a CPU, transformers' `sdpa_attention_forward` does it.

    Args:
        module: the attention layer.
        query: (rows, heads, tokens, head_dim).
        key: (rows, kv_heads, tokens, head_dim), as `value`.
        attention_mask: (rows, 1, tokens, tokens), true where attended, or what is added to the scores.
        **options: transformers' own.
    """
    fit = query.requires_grad and query.dtype == torch.bfloat16 and query.device.type == "cpu"
    if not fit or attention_mask is None or attention_mask.shape[1] != 1 or options.get("dropout"):
        result: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return result
    rows, heads, tokens, dim = query.shape
    kv_heads, length = key.shape[1:3]
    scale = options.get("scaling")
    packed = (query * (dim**-0.5 if scale is None else scale)).reshape(rows, kv_heads, -1, dim)
    scores = torch.matmul(packed, key.transpose(2, 3)).view(rows, heads, tokens, length)
    scores = scores + _additive(attention_mask, scores.dtype)
    with torch.autocast("cpu", enabled=False):  # which would copy the scores to float32; the kernel sums in it anyway
        weights = torch.softmax(scores, dim=-1)
    attended = torch.matmul(weights.view(rows, kv_heads, -1, length), value)
    return attended.view(rows, heads, tokens, dim).transpose(1, 2), None


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask.logical_not(), torch.finfo(dtype).min)
