"""Explicit 4-D attention masks as the layers of a model take them: a layer with a sliding window sees less."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def layer_masks(lm: PreTrainedModel, mask: Tensor, queries: Tensor, keys: Tensor) -> Tensor | dict[str, Tensor]:
    """Return a mask for all layers, or one for each type of layer, as transformers' forward passes take them.

    transformers leaves a 4-D mask as it is, so what a sliding window hides has to be hidden here.

    Args:
        lm: the model.
        mask: what is added to attention scores, (rows, 1, new, all): 0 where seen, else -inf.
        queries: positions of the new tokens, (rows, new).
        keys: positions of all tokens, (rows, all).
    """
    window = getattr(lm.config, "sliding_window", None)
    if window is None:
        return mask
    far = queries[:, None, :, None] - keys[:, None, None, :] >= window  # (rows, 1, new, all)
    near = mask.masked_fill(far.to(mask.device), float("-inf"))
    if getattr(lm.config, "layer_types", None) is None:
        return near
    return {"full_attention": mask, "sliding_attention": near}
