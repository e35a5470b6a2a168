"""Texts to vectors: the bidirectional view of a decoder, pooling, and forward passes over token-budget batches."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from grit_integrations.engine.adapted_view import adapted_view
from grit_integrations.kv.blocks import KVBlock
from grit_integrations.kv.cache import preallocated_cache
from grit_integrations.pooling import pooled_token

if TYPE_CHECKING:
    from grit_integrations.loading.weights import Weights
    from grit_integrations.prompts.embedding import EncoderInput
    from grit_integrations.prompts.prompt_format import Pattern

# Padded tokens in one forward pass. On a CPU, activations of larger batches exceed the 32 MiB up to which glibc reuses
# freed memory, and every layer pays for fresh pages.
BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}


class Encoder:
    """Runs a language model over padded batches of embedding prompts.

    Args:
        weights: the model.
        pad_id: fills a batch; it is masked.
        pattern: what tokens attend to: all of their text, through a bidirectional view, or those before them.
    """

    def __init__(self, weights: Weights, *, pad_id: int, pattern: Pattern = "bidirectional") -> None:
        self.weights = weights
        decoder: Any = adapted_view(weights.lm, weights.lm.get_decoder(), weights.embedding_factors)
        self.view = bidirectional_view(decoder) if pattern == "bidirectional" else decoder
        self.batch_tokens = BATCH_TOKENS.get(weights.device.type, BATCH_TOKENS["cuda"])
        self._pad_id = pad_id

    @torch.inference_mode()
    def forward(self, batch: Sequence[EncoderInput], pooling: str) -> Tensor:
        """Return the pooled states of `batch`, (rows, dim) float32 on the CPU, not yet of unit length."""
        ids, attended, _ = self._padded(batch)
        padded = bool((attended == 0).any())
        mask = attended.to(self.weights.device) if padded else None  # without a mask the fastest kernels apply
        hidden = self.view(input_ids=ids.to(self.weights.device), attention_mask=mask, use_cache=False)[0]
        return self._pooled(hidden, batch, pooling)

    @torch.inference_mode()
    def read(self, ids: Sequence[int]) -> tuple[Tensor, KVBlock]:
        """Read one text by itself: its token states, (1, tokens, dim), and its keys and values from position 0.

        Never in a batch: rows of a batch round differently, and a block must not depend on what stood beside it.
        """
        cache = preallocated_cache(self.weights.layer_devices, self.weights.dtype, len(ids))
        tokens = torch.tensor([ids], device=self.weights.device)
        hidden: Tensor = self.view(input_ids=tokens, past_key_values=cache, use_cache=True)[0]
        return hidden, KVBlock.from_cache(cache, 0, ids, position=0)

    @torch.inference_mode()
    def embed_one(self, item: EncoderInput, pooling: str) -> tuple[Tensor, KVBlock]:
        """Return what `forward` gives for one text, (1, dim) float32, and the keys and values of the same pass."""
        hidden, block = self.read(item.ids)
        return self._pooled(hidden, [item], pooling), block

    def _pooled(self, hidden: Tensor, batch: Sequence[EncoderInput], pooling: str) -> Tensor:
        if self.weights.head is not None:
            hidden = self.weights.head(hidden)
        _, attended, sample = self._padded(batch)
        marks = torch.tensor([item.mark for item in batch], device=hidden.device) if pooled_token(pooling) else None
        return pool(hidden, attended.to(hidden.device), sample.to(hidden.device), pooling, marks).cpu()

    def _padded(self, batch: Sequence[EncoderInput]) -> tuple[Tensor, Tensor, Tensor]:
        """Return right-padded ids and the attended and sample masks, each (rows, longest) int64."""
        longest = max(map(len, batch))
        ids = torch.full((len(batch), longest), self._pad_id)
        attended = torch.zeros(len(batch), longest, dtype=torch.int64)
        sample = torch.zeros(len(batch), longest, dtype=torch.int64)
        for row, item in enumerate(batch):
            ids[row, : len(item)] = torch.tensor(item.ids)
            attended[row, : len(item)] = 1
            sample[row, item.header : len(item)] = 1
        return ids, attended, sample


def bidirectional_view(decoder: nn.Module) -> Any:
    """Return a view of `decoder` whose attention is bidirectional, sharing every parameter with it.

    `decoder` is the inner model of a causal LM (`lm.model`). The view has its own copy of the config with
    `is_causal=False`. Passing `is_causal=False` to the shared model instead would flip a flag in the config that
    concurrent causal passes read (and can leave it flipped), so that is never done here.
    """
    view: Any = copy.copy(decoder)
    view.config = copy.deepcopy(decoder.config)
    view.config.is_causal = False
    return view


def pool(hidden: Tensor, attended: Tensor, sample: Tensor, method: str = "mean", marks: Tensor | None = None) -> Tensor:
    """Pool token states to one float32 vector per row, as the GritLM reference does.

    Args:
        hidden: token states, (rows, tokens, dim), any float dtype.
        attended: 1 for real tokens and 0 for right padding, (rows, tokens).
        sample: 1 for the tokens of the text itself; prompt tokens are attended but not pooled, (rows, tokens).
        method: `"mean"` and `"weightedmean"` (weights 1, 2, 3, ... over the sample) pool `sample`; `"lasttoken"` takes
            the last attended token; `"cls"` takes token 0; `"token:..."` takes the one at `marks`.
        marks: the place of that token in each row, (rows,).

    Returns:
        (rows, dim) float32.
    """
    states = hidden.float()
    if method == "cls":
        return states[:, 0]
    if method == "lasttoken":
        marks = attended.sum(dim=1) - 1
    if marks is not None:
        return states[torch.arange(states.shape[0], device=states.device), marks]
    weights = sample.float()
    if method == "weightedmean":
        weights = weights * weights.cumsum(dim=1)
    return (states * weights.unsqueeze(-1)).sum(dim=1) / weights.sum(dim=1, keepdim=True)
