"""Many continuations of one prompt, read in one row: each token sees the prompt and its own ancestors.

The prompt's keys and values stay where they are, once. What continues it is written behind them, read with an explicit
4-D mask at the positions it would have in a text of its own, and forgotten again. (Tree attention as in SpecInfer,
arXiv 2305.09781, section 4.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from grit_integrations.kv.cache import PreallocatedLayer
from grit_integrations.loading.masks import layer_masks

if TYPE_CHECKING:
    from grit_integrations.loading.weights import Weights


@dataclass(eq=False, slots=True)
class Branch:
    """Tokens that follow each other, behind those of `parent` or right behind the prompt.

    Attributes:
        ids: the tokens.
        parent: what they continue; it has been read.
        open: whether other branches will continue this one.
        states: keys and values of an open branch that was read, by layer, each (kv_heads, tokens, head_dim).
    """

    ids: tuple[int, ...]
    parent: Branch | None = None
    open: bool = False
    states: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @property
    def ancestors(self) -> list[Branch]:
        """What this branch continues, the nearest first."""
        return [] if self.parent is None else [self.parent, *self.parent.ancestors]


class TreeReader:
    """Reads branches behind a prompt.

    Args:
        weights: the model.
        cache: what holds the prompt, and nothing else, whenever `read` is not running.
    """

    def __init__(self, weights: Weights, cache: Cache) -> None:
        self._lm = weights.lm
        self._device, self._dtype = weights.device, weights.dtype
        self._cache = cache
        self._layers = [cast(PreallocatedLayer, layer) for layer in cache.layers]
        self._prompt = cache.get_seq_length()

    @torch.inference_mode()
    def read(self, branches: Sequence[Branch]) -> list[Tensor]:
        """Return the logits behind every token of each branch, (tokens, vocab) float32."""
        ancestors = list(dict.fromkeys(old for branch in branches for old in reversed(branch.ancestors)))
        rows = self._rows([*ancestors, *branches])
        for branch in ancestors:
            for layer, (keys, values) in zip(self._layers, branch.states, strict=True):
                layer.append(keys, values)
        try:
            logits = self._forward(branches, rows)
            for branch in branches:
                if branch.open:
                    start, stop = rows[branch]
                    branch.states = [_copied(layer, start, stop) for layer in self._layers]
        finally:
            for layer in self._layers:
                layer.rewind(self._prompt)
        return list(torch.split(logits, [len(branch.ids) for branch in branches]))

    def _rows(self, branches: Sequence[Branch]) -> dict[Branch, tuple[int, int]]:
        """Return where each branch stands in the cache."""
        rows, at = {}, self._prompt
        for branch in branches:
            rows[branch] = (at, at + len(branch.ids))
            at += len(branch.ids)
        return rows

    def _forward(self, branches: Sequence[Branch], rows: dict[Branch, tuple[int, int]]) -> Tensor:
        first, last = rows[branches[0]][0], rows[branches[-1]][1]
        mask = torch.full((last - first, last), float("-inf"), dtype=self._dtype)
        mask[:, : self._prompt] = 0
        places = list(range(self._prompt))
        for branch in rows:
            depth = self._prompt + sum(len(old.ids) for old in branch.ancestors)
            places += range(depth, depth + len(branch.ids))
        for branch in branches:
            start, stop = rows[branch]
            own = mask[start - first : stop - first]
            for old in branch.ancestors:
                own[:, slice(*rows[old])] = 0
            own[:, start:stop] = own[:, start:stop].triu(1)  # its own tokens up to each: what -inf leaves above
        keys = torch.tensor([places])
        positions = keys[:, first:]
        output = self._lm(
            input_ids=torch.tensor([[token for branch in branches for token in branch.ids]], device=self._device),
            attention_mask=layer_masks(self._lm, mask[None, None].to(self._device), positions, keys),
            position_ids=positions.to(self._device),
            past_key_values=self._cache,
            use_cache=True,
        )
        logits: Tensor = output.logits[0].float()
        return logits


def _copied(layer: PreallocatedLayer, start: int, stop: int) -> tuple[Tensor, Tensor]:
    keys, values = layer.rows(start, stop)
    return keys.clone(), values.clone()
