"""Attention heads that point: a loss on what the last prompt token looks at before the answer's first token is written.

Only for attention like Mistral's; the RAG objective loads this where its recipe weighs it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.mistral.modeling_mistral import apply_rotary_pos_emb

from grit_integrations.training.rows.dense_prompts import DenseBatch


def pointer_scores(lm: Any, before: Tensor, prompts: DenseBatch, asks: tuple[Tensor, Tensor], *, heads: int) -> Tensor:
    """Return what the last layer's first `heads` heads look at from a prompt's last token, before the softmax.

    Args:
        lm: a transformers causal LM whose attention is like Mistral's.
        before: (rows, tokens, hidden), what goes into the last layer.
        prompts: where tokens stand and what they see.
        asks: of each answer its row and the last position of its prompt, (answers,) both.
        heads: how many.

    Returns:
        (answers, heads, tokens) float32; `-inf` where the token does not look.
    """
    layer = lm.model.layers[-1]
    attention, (rows, places) = layer.self_attn, asks
    states = layer.input_layernorm(before)
    cos, sin = lm.model.rotary_emb(states, prompts.positions)  # (rows, tokens, head_dim)
    keys = attention.k_proj(states).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    asking = states[rows, places][:, None]  # (answers, 1, hidden)
    queries = attention.q_proj(asking).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    _, keys = apply_rotary_pos_emb(keys, keys, cos, sin)
    queries, _ = apply_rotary_pos_emb(queries, queries, cos[rows, places][:, None], sin[rows, places][:, None])
    shared = queries.shape[1] // keys.shape[1]
    keys = keys.repeat_interleave(shared, dim=1)[rows, :heads]
    scores: Tensor = (queries[:, :heads] @ keys.transpose(-1, -2)).squeeze(2).float() * attention.scaling
    return scores.masked_fill(~prompts.seen[rows, 0, places][:, None], -torch.inf)


def pointer_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Return how many nats heads are from looking at any of the target tokens, the mean over heads and answers.

    Args:
        scores: (answers, heads, tokens), before the softmax.
        targets: (answers, tokens) bool; answers without any are left out.
    """
    counted = targets.any(dim=1)
    if not counted.any():
        return scores.new_zeros(())
    looked = scores[counted].log_softmax(dim=-1)  # (rows, heads, tokens)
    return -looked.masked_fill(~targets[counted][:, None], -torch.inf).logsumexp(dim=-1).mean()
