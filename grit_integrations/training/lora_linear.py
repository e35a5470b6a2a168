"""A linear layer with its low-rank adapter, computed without the passes over memory that peft's own forward takes.

peft computes the adapter's product as wide as the layer's, scales it, and adds it: on a CPU those three passes over
memory, and as many on the way back, take about as long as a quarter of the products.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor


def add_in_place(layer: Any, adapter: str) -> None:
    """Let `layer`, one of peft's `lora.Linear` without dropout, add its adapter to its own product in place."""
    layer.forward = partial(_forward, layer, adapter)


def _forward(layer: Any, adapter: str, x: Tensor) -> Tensor:
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    base, low, high = layer.base_layer, layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    weights = (weight.to(dtype) for weight in (base.weight, low, high * layer.scaling[adapter]))
    result: Tensor = AdaptedProduct.apply(x.to(dtype), *weights)  # type: ignore[no-untyped-call]
    return result if base.bias is None else result + base.bias.to(dtype)


class AdaptedProduct(torch.autograd.Function):
    """`x W^T + x A^T B^T`, whose gradients go to x, A and B: W is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, low: Tensor, high: Tensor) -> Tensor:  # noqa: D102  # torch's own
        flat = x.reshape(-1, x.shape[-1])
        inner = torch.mm(flat, low.t())
        ctx.save_for_backward(flat, inner, weight, low, high)
        ctx.shape = x.shape
        return torch.mm(flat, weight.t()).addmm_(inner, high.t()).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        flat, inner, weight, low, high = ctx.saved_tensors
        outer = gradients[0].reshape(-1, weight.shape[0])
        within = torch.mm(outer, high)
        of_x = torch.mm(outer, weight).addmm_(within, low).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return of_x, None, torch.mm(within.t(), flat), torch.mm(outer.t(), inner)
