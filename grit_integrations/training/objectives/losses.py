"""The losses of GRIT beside that of responses, which `grit_integrations.evaluation.nats` has as a measure too."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed
from torch.nn import functional


def info_nce(queries: Tensor, passages: Tensor, texts: Tensor, *, temperature: float) -> Tensor:
    """Return InfoNCE over cosine similarity: query i against passage i, all other passages being negatives.

    A passage whose text equals the positive's is not a negative. One direction (query to passage), as in the GritLM
    reference (`training/model.py`).

    Args:
        queries: (rows, dim).
        passages: (rows + hard negatives, dim); row i is the positive of query i.
        texts: (rows + hard negatives,), equal numbers for equal texts.
        temperature: what similarities are divided by.
    """
    rows = queries.shape[0]
    scores = (
        functional.normalize(queries, dim=-1) @ functional.normalize(passages, dim=-1).T / temperature
    )  # (rows, passages)
    targets = torch.arange(rows, device=scores.device)
    same = texts[:rows, None] == texts[None, :]
    same[targets, targets] = False
    return functional.cross_entropy(scores.masked_fill(same, float("-inf")), targets)


def gather_rows(own: Tensor, counts: Sequence[int]) -> Tensor:
    """Return the rows of all processes in their order; a gradient reaches this process's alone.

    With one process this is `own`. Summed over the processes, the gradients of a loss over gathered rows are those of
    the same loss in one process.

    Args:
        own: (rows, dim).
        counts: how many rows each process has.
    """
    if len(counts) == 1 or not any(counts):
        return own
    longest = max(counts)
    padded = functional.pad(own.detach(), (0, 0, 0, longest - own.shape[0])).contiguous()
    gathered = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(gathered, padded)
    parts = [rows[:count] for rows, count in zip(gathered, counts, strict=True)]
    parts[distributed.get_rank()] = own
    return torch.cat(parts)
