"""A layer that adds its adapter in place is peft's own layer, forward and backward. Random values."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from grit_integrations.training.lora_linear import add_in_place

peft = pytest.importorskip("peft")


def layers(inputs: int, outputs: int, *, bias: bool, seed: int) -> tuple[Any, Any]:
    """Return one of peft's layers with a random adapter, and the same one adding in place."""
    torch.manual_seed(seed)
    adapters = peft.LoraConfig(r=4, lora_alpha=12, target_modules=["0"])
    theirs = peft.inject_adapter_in_model(adapters, nn.Sequential(nn.Linear(inputs, outputs, bias=bias)))[0]
    nn.init.normal_(theirs.lora_B["default"].weight)
    ours = copy.deepcopy(theirs)
    add_in_place(ours, "default")
    return theirs, ours


def computed(layer: Any, x: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Return what the layer gives, and the gradients of its input and of both factors."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = layer(x)
    assert found.dtype == dtype
    (found.float() * torch.linspace(-1, 1, found.shape[-1])).sum().backward()
    factors = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    return [found.detach(), *(each.grad for each in (x, *factors) if each.grad is not None)]


@settings(deadline=None, max_examples=30)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    inputs=st.integers(4, 40),
    outputs=st.integers(4, 40),
    bias=st.booleans(),
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_adding_in_place_is_pefts_forward(
    shape: list[int], inputs: int, outputs: int, bias: bool, seed: int, dtype: torch.dtype
) -> None:
    theirs, ours = layers(inputs, outputs, bias=bias, seed=seed)
    x = torch.randn(*shape, inputs)
    wanted, found = computed(theirs, x, dtype), computed(ours, x, dtype)
    assert len(wanted) == len(found) == 4
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    for one, other in zip(wanted, found, strict=True):
        assert one.shape == other.shape
        assert torch.linalg.norm(one.float() - other.float()) <= tolerance * torch.linalg.norm(one.float()) + 1e-6


def test_an_input_without_a_gradient_costs_none() -> None:
    _, ours = layers(8, 6, bias=True, seed=0)
    ours(torch.randn(3, 8)).sum().backward()
    assert ours.lora_A["default"].weight.grad is not None
    assert ours.base_layer.weight.grad is None
