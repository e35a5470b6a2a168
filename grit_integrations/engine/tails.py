"""The last tokens of many prompts, read together: each row behind its own prompt, tails of any lengths.

Prompts stand in the first columns and are padded on their right, tails in the last ones and are padded on their left:
so every row's last token is in the last column, for any architecture. An explicit 4-D mask and explicit positions let
each token see what it would see in a prompt of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grit_integrations.kv.cache import RowsCache
from grit_integrations.loading.masks import layer_masks

if TYPE_CHECKING:
    from grit_integrations.loading.weights import Weights


def rows_cache(weights: Weights, prefixes: Sequence[int], tails: Sequence[int]) -> RowsCache:
    """Return an empty cache with room for prompts of these lengths and for their tails."""
    config = weights.lm.config
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = (int(config.num_key_value_heads), int(dim))
    return RowsCache(weights.layer_devices, weights.dtype, prefixes, room=max(tails), heads=heads)


@torch.inference_mode()
def tail_logits(weights: Weights, cache: RowsCache, tails: Sequence[Sequence[int]], wanted: Sequence[int]) -> Tensor:
    """Return the logits of a few tokens behind the last one of each tail, (rows, wanted) float32 on the CPU.

    Args:
        weights: the model.
        cache: holds the prompts.
        tails: what follows each of them, at least one token.
        wanted: ids of the tokens whose logits are returned.
    """
    device = weights.device
    prefixes, lengths = torch.tensor(cache.lengths), torch.tensor([len(tail) for tail in tails])
    longest = int(lengths.max())
    ids = torch.zeros(len(tails), longest, dtype=torch.long)  # padding is masked, so any id serves
    for row, tail in enumerate(tails):
        ids[row, longest - len(tail) :] = torch.tensor(tail)
    starts = longest - lengths  # (rows,), the column of each tail's first token
    positions = (prefixes - starts)[:, None] + torch.arange(longest)
    mask = tail_mask(prefixes, starts, cache.longest, longest, weights.dtype).to(device)
    places = torch.cat([torch.arange(cache.longest).expand(len(tails), -1), positions], dim=1)
    output = weights.lm(
        input_ids=ids.to(device),
        attention_mask=layer_masks(weights.lm, mask, positions, places),
        position_ids=positions.clamp(min=0).to(device),
        past_key_values=cache.whole(),
        use_cache=True,
        logits_to_keep=1,
    )
    logits: Tensor = output.logits[:, -1].float()
    return logits[:, torch.tensor(wanted, device=logits.device)].cpu()


def tail_mask(prefixes: Tensor, starts: Tensor, padded: int, longest: int, dtype: torch.dtype) -> Tensor:
    """Return what is added to attention scores, (rows, 1, longest, padded + longest): 0 where seen, else -inf.

    Args:
        prefixes: (rows,), the tokens of each prompt.
        starts: (rows,), the column at which each tail begins.
        padded: columns of the prompts.
        longest: columns of the tails.
        dtype: of the model.
    """
    reading = torch.arange(longest)
    columns = torch.arange(padded + longest)
    prompt = columns < prefixes[:, None, None]  # (rows, 1, columns)
    own = (columns - padded >= starts[:, None, None]) & (columns - padded <= reading[:, None])
    real = (reading >= starts[:, None])[..., None]  # (rows, longest, 1)
    itself = columns - padded == reading[:, None]  # of padding as well: a token that sees nothing is not a number
    mask = torch.zeros(len(prefixes), longest, len(columns), dtype=dtype)
    return mask.masked_fill_(~((prompt | own) & real | itself), float("-inf"))[:, None]
