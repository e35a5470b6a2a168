"""The model a run starts from: a checkpoint, random weights, or a bag of words inside a plain Mistral."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from grit_integrations.errors import ConfigError
from grit_integrations.training.config import ModelConfig

HEAD_STD = 0.02
WORKSPACE_SCALE = 0.05  # of the final norm, in the workspace, while training
FOLDED = 0.25  # times that, once exported


def new_model(sizes: ModelConfig, tokenizer: PreTrainedTokenizerFast, *, seed: int) -> MistralForCausalLM:
    """Return a stock Mistral with random float32 weights."""
    config = MistralConfig(
        architectures=["MistralForCausalLM"],
        vocab_size=len(tokenizer),
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.mlp_size,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        max_position_embeddings=sizes.context,
        rope_parameters={"rope_type": "default", "rope_theta": sizes.rope_theta},
        sliding_window=None,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    model: MistralForCausalLM = MistralForCausalLM(config).float()
    return model


def check_checkpoint(checkpoint: str) -> None:
    """Raise `ConfigError` unless `checkpoint` is a directory that holds a saved model."""
    if not (Path(checkpoint) / "config.json").is_file():
        raise ConfigError(f"model.checkpoint {checkpoint} is not a directory with a config.json and safetensors.")


def load_model(checkpoint: str) -> PreTrainedModel:
    """Return the causal LM of a checkpoint directory in float32, without a sliding window."""
    check_checkpoint(checkpoint)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, use_safetensors=True, sliding_window=None, local_files_only=True
    )
    return model


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
    vector hardly at all. See `hold_workspace`.

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


def hold_workspace(model: MistralForCausalLM, workspace: int, *, shared: int = 0) -> None:
    """Keep training from mixing words and workspace: layers write the workspace alone, embeddings the words alone.

    Done by masking gradients, so the trained model is as stock as any other.

    Args:
        model: from `start_as_bag`.
        workspace: how many coordinates.
        shared: how many of them, the first, the embeddings write as well.
    """
    dim = model.config.hidden_size
    inside = torch.zeros(dim)
    inside[dim - 1 - workspace : dim - 1] = 1.0
    kept = inside.clone()
    kept[: dim - 1 - workspace + shared] = 0.0
    for layer in model.model.layers:
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            projection.weight.register_hook(lambda gradient: gradient * inside[:, None].to(gradient.device))
    model.model.embed_tokens.weight.register_hook(lambda gradient: gradient * (1 - kept).to(gradient.device))
    model.model.norm.weight.register_hook(torch.zeros_like)


@torch.no_grad()
def unfold_workspace(model: Any, workspace: int) -> None:
    """Undo `fold_workspace` in a model that was loaded, to train it on.

    Raises:
        ConfigError: the model was not exported with a workspace of that size.
    """
    norm, head = model.model.norm.weight, model.lm_head.weight
    inside = slice(len(norm) - 1 - workspace, len(norm) - 1)
    scales = norm[inside].unique().tolist()
    if len(scales) != 1 or not math.isclose(scales[0], WORKSPACE_SCALE * FOLDED, rel_tol=0.01) or norm[-1] != 0:
        raise ConfigError(
            f"model.workspace is {workspace}, but the checkpoint has no workspace of that size. Set the size that it "
            "was trained with, or leave it out."
        )
    norm[inside] /= FOLDED
    head[:, inside] *= FOLDED


def fold_workspace(tensors: Mapping[str, Tensor], workspace: int) -> dict[str, Tensor]:
    """Return tensors whose pooled vectors see a quarter as much of the workspace; logits are the same to the bit.

    What the layers write for the next token is noise to a pooled vector. While training the scale is one that the head
    learns well at; afterwards the final norm shrinks the workspace once more and the head's columns grow by as much, a
    power of two. For grit-mini that raised recall@10 on SelQA among 500 passages from .879 to .934.

    Args:
        tensors: of a model from `start_as_bag`, by their names.
        workspace: how many coordinates.
    """
    folded = dict(tensors)
    dim = folded["model.norm.weight"].shape[0]
    inside = slice(dim - 1 - workspace, dim - 1)
    norm, head = folded["model.norm.weight"].clone(), folded["lm_head.weight"].clone()
    norm[inside] *= FOLDED
    head[:, inside] /= FOLDED
    return {**folded, "model.norm.weight": norm, "lm_head.weight": head}


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
