"""Attention as matrix products is the attention of torch's kernels, forward and backward. Random values."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from grit_integrations.training.attention import product_attention

LAYER: Any = SimpleNamespace(num_key_value_groups=3, is_causal=True, training=True)
Attention = Callable[..., tuple[Tensor, None]]


def gradients(attend: Attention, mask: Tensor | None, tokens: int, dtype: torch.dtype) -> list[Tensor]:
    """Return attended values and the gradients of query, key and value."""
    torch.manual_seed(tokens)
    query, key, value = (torch.randn(2, heads, tokens, 16).bfloat16().to(dtype).requires_grad_() for heads in (9, 3, 3))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        attended, _ = attend(LAYER, query, key, value, mask, scaling=0.25, dropout=0.0)
    attended.float().pow(2).sum().backward()
    return [attended.detach(), *(each.grad for each in (query, key, value) if each.grad is not None)]


@settings(deadline=None, max_examples=25)
@given(tokens=st.integers(2, 90), seed=st.integers(0, 10_000), added=st.booleans())
def test_products_attend_as_the_kernel_does(tokens: int, seed: int, added: bool) -> None:
    seen = torch.rand(2, 1, tokens, tokens, generator=torch.Generator().manual_seed(seed)) > 0.4
    seen |= torch.eye(tokens, dtype=torch.bool)
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.bfloat16).min) if added else seen
    ours = gradients(product_attention, mask, tokens, torch.bfloat16)
    exact = gradients(sdpa_attention_forward, seen, tokens, torch.float32)
    assert len(ours) == len(exact) == 4
    for found, wanted in zip(ours, exact, strict=True):
        assert torch.linalg.norm(found.float() - wanted) < 0.03 * torch.linalg.norm(wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_has_no_mask_is_left_to_transformers(dtype: torch.dtype) -> None:
    ours, theirs = (gradients(attend, None, 12, dtype) for attend in (product_attention, sdpa_attention_forward))
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_float32_is_left_to_transformers() -> None:
    seen = torch.ones(2, 1, 12, 12, dtype=torch.bool).tril()
    query, key, value = (torch.randn(2, heads, 12, 16).requires_grad_() for heads in (9, 3, 3))
    ours, theirs = (attend(LAYER, query, key, value, seen)[0] for attend in (product_attention, sdpa_attention_forward))
    assert torch.equal(ours, theirs)
