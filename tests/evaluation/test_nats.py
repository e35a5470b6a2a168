"""The loss of responses against formulas that are written out by hand, the GritLM reference's among them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from grit_integrations.evaluation.labelled_texts import IGNORED
from grit_integrations.evaluation.nats import response_loss

LABELS = torch.tensor([[IGNORED, IGNORED, 4, 2, IGNORED], [IGNORED, 1, 3, IGNORED, IGNORED]])


def all_logits_loss(logits: Tensor, labels: Tensor, kind: str) -> Tensor:
    """The reference's `NextTokenLoss`: every logit, shifted, flattened; mixed is a mean, token a sum over the rows."""
    shifted, targets = logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1)
    kept = targets != -100
    nats = -shifted[kept].log_softmax(dim=1)[torch.arange(int(kept.sum())), targets[kept]]
    return nats.mean() if kind == "mixed" else nats.sum() / labels.shape[0]


@pytest.mark.parametrize("kind", ["mixed", "token"])
def test_response_loss_equals_the_reference(kind: str) -> None:
    generator = torch.Generator().manual_seed(6)
    hidden, head = torch.randn(3, 9, 8, generator=generator), torch.randn(11, 8, generator=generator)
    labels = torch.randint(0, 11, (3, 9), generator=generator)
    labels[0, :6] = labels[1, 5:] = labels[2, 2:4] = IGNORED
    ours = response_loss(hidden, head, labels, kind=kind)  # type: ignore[arg-type]
    assert ours.item() == pytest.approx(all_logits_loss(hidden @ head.T, labels, kind).item(), rel=1e-6)


def test_every_row_weighs_alike_by_sample() -> None:
    generator = torch.Generator().manual_seed(7)
    hidden, head = torch.randn(3, 9, 8, generator=generator), torch.randn(11, 8, generator=generator)
    labels = torch.randint(0, 11, (3, 9), generator=generator)
    labels[0, :7], labels[2] = IGNORED, IGNORED  # two tokens, eight, none
    rows = [response_loss(hidden[[row]], head, labels[[row]], kind="mixed").item() for row in (0, 1)]
    assert response_loss(hidden, head, labels, kind="sample").item() == pytest.approx(sum(rows) / 2, rel=1e-6)


@pytest.mark.parametrize(("kind", "divisor"), [("mixed", 4), ("token", 2)])
def test_response_loss_counts_labelled_tokens_only(kind: str, divisor: int) -> None:
    torch.manual_seed(4)
    hidden, head = torch.randn(2, 5, 8), torch.randn(6, 8)
    expected = 0.0
    for row, column, token in [(0, 2, 4), (0, 3, 2), (1, 1, 1), (1, 2, 3)]:
        logits = head @ hidden[row, column - 1]  # position t predicts t + 1
        expected -= float(logits.log_softmax(0)[token])
    loss = response_loss(hidden, head, LABELS, kind=kind)  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(expected / divisor, rel=1e-5)


def test_states_that_predict_nothing_get_no_gradient() -> None:
    hidden = torch.randn(2, 5, 8, requires_grad=True)
    response_loss(hidden, torch.randn(6, 8), LABELS).backward()
    assert hidden.grad is not None
    touched = hidden.grad.abs().sum(dim=2) > 0
    assert touched.tolist() == [[False, True, True, False, False], [True, True, False, False, False]]


def test_a_batch_without_responses_costs_nothing() -> None:
    labels = torch.full((2, 5), IGNORED)
    assert response_loss(torch.randn(2, 5, 8), torch.randn(6, 8), labels).item() == 0.0
