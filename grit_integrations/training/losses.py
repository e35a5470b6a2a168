"""The two losses of GRIT."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from grit_integrations.training.batches import IGNORED


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


def response_loss(hidden: Tensor, head: Tensor, labels: Tensor, *, kind: Literal["mixed", "token"] = "mixed") -> Tensor:
    """Return the causal cross-entropy of the labelled tokens; only their logits are computed.

    Args:
        hidden: (rows, tokens, dim) causal states; position t predicts the label at t + 1.
        head: (vocabulary, dim).
        labels: (rows, tokens), not shifted; `IGNORED` where nothing is predicted.
        kind: `"mixed"` averages over the batch's labelled tokens, `"token"` sums them and divides by the rows (the
            reference's `loss_gen_type`).
    """
    targets = labels[:, 1:]
    counted = targets != IGNORED
    logits = functional.linear(hidden[:, :-1][counted], head).float()  # (labelled tokens, vocabulary)
    total = functional.cross_entropy(logits, targets[counted], reduction="sum")
    return total / (counted.sum().clamp(min=1) if kind == "mixed" else labels.shape[0])
