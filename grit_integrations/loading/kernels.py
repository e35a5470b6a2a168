"""Which of transformers' attention kernels can do what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grit_integrations.errors import OptionError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GROUPED = "grit_sdpa"  # ours, see `attention.py`
_MASKED = (GROUPED, "sdpa", "eager")  # those that take a mask of any form


def check_takes_masks(lm: PreTrainedModel) -> None:
    """Refuse a model whose attention kernel takes no mask.

    Raises:
        OptionError: with the kernels that do.
    """
    name = str(lm.config._attn_implementation)
    if name not in _MASKED:
        raise OptionError(
            f"attn_implementation={name!r} takes no mask, and scoring spans, judging passages and reading parts "
            f"of a document again need one. Load the model with one of {', '.join(_MASKED)}; or quote with "
            "method='tokens', rerank with method='listwise' or 'embedding', and give doc_blocks that recompute nothing."
        )
