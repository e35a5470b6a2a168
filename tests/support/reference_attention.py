"""A Mistral forward pass written out by hand in float32: RoPE, grouped heads and softmax with an explicit mask."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import MistralForCausalLM


def hidden_states(lm: MistralForCausalLM, ids: list[int], *, causal: bool) -> Tensor:
    """Return the last hidden states of one sequence, (tokens, hidden) float32, straight from the weights."""
    config, weights = lm.config, {name: tensor.float() for name, tensor in lm.state_dict().items()}
    count, heads, kv_heads = len(ids), config.num_attention_heads, config.num_key_value_heads
    head_dim = config.hidden_size // heads
    allowed = torch.tril(torch.ones(count, count)).bool() if causal else torch.ones(count, count).bool()
    cos, sin = _rope(count, head_dim, config.rope_parameters["rope_theta"])
    x = weights["model.embed_tokens.weight"][torch.tensor(ids)]
    for layer in range(config.num_hidden_layers):
        w = {name.removeprefix(f"model.layers.{layer}."): tensor for name, tensor in weights.items()}
        h = _norm(x, w["input_layernorm.weight"], config.rms_norm_eps)
        q = _rotate(_split(h @ w["self_attn.q_proj.weight"].T, heads), cos, sin)
        k = _rotate(_split(h @ w["self_attn.k_proj.weight"].T, kv_heads), cos, sin).repeat_interleave(
            heads // kv_heads, 0
        )
        v = _split(h @ w["self_attn.v_proj.weight"].T, kv_heads).repeat_interleave(heads // kv_heads, 0)
        scores = (q @ k.transpose(1, 2) / head_dim**0.5).masked_fill(~allowed, float("-inf"))
        attended = (scores.softmax(-1) @ v).transpose(0, 1).reshape(count, -1)
        x = x + attended @ w["self_attn.o_proj.weight"].T
        h = _norm(x, w["post_attention_layernorm.weight"], config.rms_norm_eps)
        gate = torch.nn.functional.silu(h @ w["mlp.gate_proj.weight"].T)
        x = x + (gate * (h @ w["mlp.up_proj.weight"].T)) @ w["mlp.down_proj.weight"].T
    return _norm(x, weights["model.norm.weight"], config.rms_norm_eps)


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def _split(x: Tensor, heads: int) -> Tensor:
    return x.view(x.shape[0], heads, -1).transpose(0, 1)  # (heads, tokens, head_dim)


def _rope(count: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    frequencies = theta ** (-torch.arange(0, head_dim, 2).float() / head_dim)
    angles = torch.outer(torch.arange(count).float(), frequencies).repeat(1, 2)  # (tokens, head_dim)
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
