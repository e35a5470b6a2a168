"""The losses against formulas that are written out by hand, the GritLM reference's among them."""

from __future__ import annotations

import math

import pytest
import torch
from processes import in_processes
from torch import Tensor

from grit_integrations.training.objectives.losses import gather_rows, info_nce


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


def grouped_info_nce(queries: Tensor, groups: Tensor, temperature: float) -> Tensor:
    """The reference's layout: (rows, group, dim), each group a positive and its negatives; target i * group size."""
    rows, group, dim = groups.shape
    unit_queries = queries / queries.norm(dim=1, keepdim=True)
    unit_groups = groups.reshape(rows * group, dim) / groups.reshape(rows * group, dim).norm(dim=1, keepdim=True)
    scores = unit_queries @ unit_groups.T / temperature
    rights = scores[torch.arange(rows), torch.arange(rows) * group]
    return (scores.logsumexp(dim=1) - rights).mean()


@pytest.mark.parametrize("group", [1, 2, 8])
def test_info_nce_equals_the_reference_with_hard_negatives(group: int) -> None:
    generator = torch.Generator().manual_seed(5)
    queries = torch.randn(6, 16, generator=generator, dtype=torch.float64)
    groups = torch.randn(6, group, 16, generator=generator, dtype=torch.float64)
    passages = torch.cat([groups[:, 0], groups[:, 1:].reshape(-1, 16)])
    ours = info_nce(queries, passages, torch.arange(len(passages)), temperature=0.02)
    assert ours.item() == pytest.approx(grouped_info_nce(queries, groups, 0.02).item(), abs=1e-6)
    single = info_nce(queries.float(), passages.float(), torch.arange(len(passages)), temperature=0.02)
    assert single.item() == pytest.approx(ours.item(), rel=1e-6)


def tensors() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(8)
    queries, positives = torch.randn(5, 4, generator=generator), torch.randn(5, 4, generator=generator)
    return queries, positives, torch.randn(3, 4, generator=generator), torch.tensor([0, 1, 2, 3, 0, 4, 5, 1])


def gathered_gradients(process: int) -> tuple[float, Tensor, Tensor, Tensor]:
    """What one of two processes finds, which has 3 or 2 of the queries and 2 or 1 of the negatives."""
    queries, positives, negatives, texts = tensors()
    own, hard = [slice(0, 3), slice(3, 5)][process], [slice(0, 2), slice(2, 3)][process]
    parts = [part.clone().requires_grad_() for part in (queries[own], positives[own], negatives[hard])]
    passages = torch.cat([gather_rows(parts[1], [3, 2]), gather_rows(parts[2], [2, 1])])
    loss = info_nce(gather_rows(parts[0], [3, 2]), passages, texts, temperature=0.1)
    loss.backward()
    return (loss.item(), *(part.grad for part in parts))  # type: ignore[return-value]


def test_two_processes_have_the_loss_and_the_gradients_of_one() -> None:
    queries, positives, negatives, texts = (part.requires_grad_(part.is_floating_point()) for part in tensors())
    loss = info_nce(queries, torch.cat([positives, negatives]), texts, temperature=0.1)
    loss.backward()
    found = in_processes(gathered_gradients, 2)
    assert [each[0] for each in found] == pytest.approx([loss.item()] * 2, abs=1e-6)
    for part, whole in enumerate((queries, positives, negatives), start=1):
        assert torch.allclose(torch.cat([each[part] for each in found]), whole.grad, atol=1e-6)
