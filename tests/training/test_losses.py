"""Both losses against code that is written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from grit_integrations.training.batches import IGNORED
from grit_integrations.training.losses import info_nce, response_loss


def by_hand(queries: Tensor, passages: Tensor, texts: list[int], temperature: float) -> float:
    total = 0.0
    for row, query in enumerate(queries):
        scores = {}
        for column, passage in enumerate(passages):
            if column == row or texts[column] != texts[row]:
                cosine = float(query @ passage) / float(query.norm()) / float(passage.norm())
                scores[column] = math.exp(cosine / temperature)
        total -= math.log(scores[row] / sum(scores.values()))
    return total / len(queries)


@pytest.mark.parametrize("negatives", [0, 3])
def test_info_nce_equals_the_formula(negatives: int) -> None:
    torch.manual_seed(1)
    queries, passages = torch.randn(5, 8), torch.randn(5 + negatives, 8)
    texts = list(range(5 + negatives))
    loss = info_nce(queries, passages, torch.tensor(texts), temperature=0.1)
    assert loss.item() == pytest.approx(by_hand(queries, passages, texts, 0.1), rel=1e-5)


def test_equal_positives_are_no_negatives_of_each_other() -> None:
    torch.manual_seed(2)
    queries, passages = torch.randn(4, 8), torch.randn(5, 8)
    passages[2] = passages[0]
    passages[4] = passages[1]  # a hard negative that repeats a positive
    texts = [0, 1, 0, 3, 1]
    loss = info_nce(queries, passages, torch.tensor(texts), temperature=0.05)
    assert loss.item() == pytest.approx(by_hand(queries, passages, texts, 0.05), rel=1e-5)
    unmasked = info_nce(queries, passages, torch.arange(5), temperature=0.05)
    assert unmasked.item() > loss.item() + 0.1


def test_info_nce_pulls_the_positive_closer() -> None:
    torch.manual_seed(3)
    queries, passages = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8)
    info_nce(queries, passages, torch.arange(4), temperature=0.05).backward()
    moved = (queries - 0.1 * queries.grad).detach()
    before, after = (torch.cosine_similarity(q, passages).mean().item() for q in (queries.detach(), moved))
    assert after > before


LABELS = torch.tensor([[IGNORED, IGNORED, 4, 2, IGNORED], [IGNORED, 1, 3, IGNORED, IGNORED]])


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
