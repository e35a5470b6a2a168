"""A bag of words inside a plain Mistral: silent layers, and embeddings whose mean already retrieves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import MistralForCausalLM, PreTrainedTokenizerFast

from grit_integrations.training.start.from_nothing.workspace import WORKSPACE_SCALE

IDF_DOCUMENTS = 20_000  # texts that the weights are counted on
HEAD_STD = 0.02


@torch.no_grad()
def start_as_bag(
    model: MistralForCausalLM, weights: Tensor, codes: Sequence[int], *, seed: int, workspace: int = 0
) -> None:
    """Set a model's parameters so that its mean-pooled states are a weighted bag of tokens.

    The residual branches start silent (their output projections are 0). Token i's embedding is
    `[weight_i * direction(code_i), filler_i]`, all at one norm, so that the final RMSNorm rescales all alike and the
    weighting survives; the norm's weight is 0 on the filler coordinate. Tokens of equal code share a direction.

    With a workspace, some coordinates before the filler start at 0 in every embedding. The final norm shrinks them, and
    the head's columns make up for that: what layers write there reaches the next-token logits in full and the pooled
    vector hardly at all. See `workspace.py`.

    Args:
        model: changed in place.
        weights: (vocabulary,), positive, for instance inverse document frequencies.
        codes: per token, a number that tokens of one word share.
        seed: of the directions.
        workspace: how many coordinates.
    """
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    table = model.model.embed_tokens.weight  # (vocabulary, dim)
    dim = table.shape[1]
    generator = torch.Generator().manual_seed(seed)
    words = dim - 1 - workspace
    directions = torch.randn(max(codes) + 1, words, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    scaled = (weights / weights.max()).clamp(0, 1) * math.sqrt(dim) * 0.999
    table.zero_()
    table[:, :words] = directions[torch.tensor(codes)] * scaled[:, None]
    table[:, -1] = (dim - scaled**2).sqrt()
    model.model.norm.weight.fill_(1.0)
    model.model.norm.weight[words:-1] = WORKSPACE_SCALE
    model.model.norm.weight[-1] = 0.0
    model.lm_head.weight.normal_(0.0, HEAD_STD, generator=generator)
    model.lm_head.weight[:, words:-1] /= WORKSPACE_SCALE


def token_weights(documents: Iterable[Sequence[int]], codes: Sequence[int]) -> Tensor:
    """Return inverse document frequencies, (vocabulary,), shared by tokens of one code."""
    counts = torch.zeros(max(codes) + 1)
    total = 0
    for ids in documents:
        counts[sorted({codes[token] for token in ids})] += 1
        total += 1
    frequency = torch.log((total + 1) / (counts + 1))
    return frequency.clamp(min=0.0, max=math.log(max(total, 6) / 3))[torch.tensor(codes)]


def token_codes(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Number the tokens so that those that differ only in case and a leading space share a number."""
    numbers: dict[str, int] = {}
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return [numbers.setdefault(token.lstrip("Ġ").lower() or token, len(numbers)) for token in tokens]
