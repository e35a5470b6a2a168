"""Attention patterns that neither the causal model nor its bidirectional view has by itself, as explicit masks."""

from __future__ import annotations

import torch
from torch import Tensor


def causal_then_bidirectional(attended: Tensor, prompt: Tensor) -> Tensor:
    """Return the mask of the reference's `cb`: the prompt is causal, the text behind it sees both ways.

    Args:
        attended: (rows, tokens), 1 for real tokens.
        prompt: (rows,), how many tokens stand before the text.

    Returns:
        (rows, 1, tokens, tokens) bool, true where a position (third axis) sees another.
    """
    places = torch.arange(attended.shape[1], device=attended.device)
    text = places[None, :, None] >= prompt[:, None, None]  # (rows, tokens, 1)
    return _mask(text | _causal(places), attended)


def bidirectional_then_causal(attended: Tensor, prompt: Tensor) -> Tensor:
    """Return the mask of the reference's `bc`, a prefix language model: the prompt sees itself both ways.

    Arguments and result are those of `causal_then_bidirectional`.
    """
    places = torch.arange(attended.shape[1], device=attended.device)
    inside = places[None] < prompt[:, None]  # (rows, tokens)
    return _mask((inside[:, :, None] & inside[:, None, :]) | _causal(places), attended)


def _causal(places: Tensor) -> Tensor:
    return places[None, :, None] >= places[None, None, :]  # (1, tokens, tokens)


def _mask(seen: Tensor, attended: Tensor) -> Tensor:
    return (seen & attended.bool()[:, None, :])[:, None]
