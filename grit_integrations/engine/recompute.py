"""Tokens of a block that are read again where it stands, behind everything before it: a cure that needs no training.

A block that was read by itself lacks what the documents before it would have told its tokens. Which tokens are read
again is EPIC's choice, the first ones (arXiv 2410.15332), or CacheBlend's, those that the documents before them change
most (arXiv 2405.16444). In every layer a token that is read again attends to what stands before the block, and in the
block to whatever it attended to when the block was read by itself, whether that was read again too or not.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from grit_integrations.kv.cache import PreallocatedLayer, RewrittenLayer, copy_rows, preallocated_cache

if TYPE_CHECKING:
    from grit_integrations.loading.weights import Weights
    from grit_integrations.prompts.plan import PlannedBlock

_LAYERS = 2  # the first shows no difference: keys and values there depend on nothing but token and position


class Recompute:
    """Reads some tokens of the block again that stands at the end of a request's cache.

    Args:
        weights: the model.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._decoder: Any = weights.lm.get_decoder()
        self._first_layers: Any = copy.copy(self._decoder)  # shares every parameter, as the encoder's view does
        self._first_layers.config = copy.deepcopy(self._decoder.config)
        self._first_layers.config.num_hidden_layers = min(_LAYERS, len(weights.layer_devices))

    @torch.inference_mode()
    def __call__(self, cache: Cache, planned: PlannedBlock) -> int:
        """Replace keys and values of as many tokens as the block's setting asks for; return how many.

        None are replaced in a block that stands first: nothing is before it that it could have missed.

        Args:
            cache: of one request; the block has been placed at its end.
            planned: the block.
        """
        tokens = len(planned.placed)
        start, count, setting = cache.get_seq_length() - tokens, planned.recomputed, planned.doc_blocks
        if not start or not count or setting is None:
            return 0
        rows = torch.arange(count)
        if setting.recompute_share and count < tokens:
            rows = self._most_deviating(cache, planned, start, count)
        replacing = Cache(layers=[_rewritten(layer, start + rows) for layer in cache.layers])
        self._read(self._decoder, planned, start, rows, replacing)
        return count

    def _most_deviating(self, cache: Cache, planned: PlannedBlock, start: int, count: int) -> Tensor:
        """Return the places in the block, in order, of the tokens whose values change most, (count,).

        All tokens are read again for it, in two layers. Values have no position, so moving the block is not in it.
        """
        tokens, layers = len(planned.placed), self._first_layers.config.num_hidden_layers
        behind = preallocated_cache(self._weights.layer_devices[:layers], self._weights.dtype, start + tokens)
        copy_rows(cache, behind, start)
        self._read(self._first_layers, planned, start, torch.arange(tokens), behind)
        old, new = (_own(each.layers[layers - 1]).rows(start, start + tokens)[1].float() for each in (cache, behind))
        deviations = (new - old).square().sum(dim=(0, 2))  # (tokens,), of (kv_heads, tokens, head_dim)
        order = deviations.sort(descending=True, stable=True).indices[:count]
        return order.sort().values.cpu()

    def _read(self, decoder: Any, planned: PlannedBlock, start: int, rows: Tensor, cache: Cache) -> None:
        """Read the block's tokens at `rows`, (tokens,) int64, so that `cache` receives their keys and values."""
        device, placed = self._weights.device, planned.placed
        mask = _mask(start, len(placed), rows, causal=planned.pattern == "alone", dtype=self._weights.dtype)
        decoder(
            input_ids=torch.tensor([[placed[row] for row in rows.tolist()]], device=device),
            attention_mask=mask.to(device),
            position_ids=(start + rows)[None].to(device),
            past_key_values=cache,
            use_cache=True,
        )


def _mask(start: int, tokens: int, rows: Tensor, *, causal: bool, dtype: torch.dtype) -> Tensor:
    """Return what is added to attention scores, (1, 1, rows, start + tokens): 0 where seen, else -inf."""
    mask = torch.zeros(len(rows), start + tokens, dtype=dtype)
    if causal:
        mask.masked_fill_(torch.arange(start + tokens) > (start + rows)[:, None], float("-inf"))
    return mask[None, None]


def _rewritten(layer: object, rows: Tensor) -> CacheLayerMixin:
    own = _own(layer)
    return RewrittenLayer(own, rows.to(own.device))


def _own(layer: object) -> PreallocatedLayer:
    assert isinstance(layer, PreallocatedLayer)
    return layer
