"""The loss of predicted tokens in nats, on transformers' own model object.

The trainer changes that object between two looks; an evaluation measures the weights of a finished model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from grit_integrations.errors import DataError
from grit_integrations.evaluation.labelled_texts import IGNORED, PromptEncoder, text_batch
from grit_integrations.evaluation.row_kinds import TextRow

TEXT_ROWS = 16  # in one pass
CausalLM = Any  # a transformers causal LM: `.model` is the decoder without the head, `.lm_head` the head
Autocast = Callable[[], AbstractContextManager[None]]


def response_loss(
    hidden: Tensor, head: Tensor, labels: Tensor, *, kind: Literal["mixed", "token", "sample"] = "mixed"
) -> Tensor:
    """Return the causal cross-entropy of the labelled tokens; only their logits are computed.

    Args:
        hidden: (rows, tokens, dim) causal states; position t predicts the label at t + 1.
        head: (vocabulary, dim).
        labels: (rows, tokens), not shifted; `IGNORED` where nothing is predicted.
        kind: `"mixed"` averages over the batch's labelled tokens, `"token"` sums them and divides by the rows (both
            as the reference's `loss_gen_type`); `"sample"` averages over each row's tokens, then over the rows.
    """
    targets = labels[:, 1:]
    counted = targets != IGNORED
    logits = functional.linear(hidden[:, :-1][counted], head).float()  # (labelled tokens, vocabulary)
    if kind == "sample":
        return _mean_of_rows(logits, targets, counted)
    total = functional.cross_entropy(logits, targets[counted], reduction="sum")
    return total / (counted.sum().clamp(min=1) if kind == "mixed" else labels.shape[0])


def _mean_of_rows(logits: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
    """Return the mean over rows of the mean over a row's tokens; rows without any are left out."""
    each = functional.cross_entropy(logits, targets[counted], reduction="none")
    lengths = counted.sum(dim=1)  # (rows,)
    weights = (1 / lengths.clamp(min=1))[:, None].expand_as(counted)[counted]
    return (each * weights).sum() / (lengths > 0).sum().clamp(min=1)


def response_nats(
    model: CausalLM,
    encoder: PromptEncoder,
    texts: Sequence[TextRow],
    *,
    longest: int = 512,
    autocast: Autocast = nullcontext,
) -> float:
    """Return the mean loss in nats per predicted token; its exponential is the perplexity.

    Raises:
        DataError: no row has a response within `longest` tokens.
    """
    total, count = 0.0, 0
    ordered = sorted(texts, key=lambda text: text.size)
    for start in range(0, len(ordered), TEXT_ROWS):
        rows = ordered[start : start + TEXT_ROWS]
        nats, tokens = summed_nats(model, encoder, rows, longest=longest, autocast=autocast)
        total, count = total + nats, count + tokens
    if not count:
        raise DataError(f"None of the {len(texts)} evaluation rows has a response within {longest} tokens.")
    return total / count


@torch.no_grad()
def summed_nats(
    model: CausalLM, encoder: PromptEncoder, texts: Sequence[TextRow], *, longest: int, autocast: Autocast = nullcontext
) -> tuple[float, int]:
    """Return the loss of one batch of texts in nats, summed over its predicted tokens, and how many those are."""
    batch = text_batch(encoder, texts, longest=longest).to(model.device)
    tokens = int((batch.labels[:, 1:] != IGNORED).sum())
    if not tokens:
        return 0.0, 0
    with autocast():
        inner = model.model(input_ids=batch.ids, attention_mask=batch.attended, use_cache=False)
    head = model.lm_head.weight
    states = inner.last_hidden_state / getattr(model.config, "logits_scaling", 1)  # Granite divides its logits
    mean = response_loss(states.to(head.dtype), head, batch.labels)
    return float(mean) * tokens, tokens
