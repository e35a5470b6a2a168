"""Ranks by hand, on cases small enough to check by eye."""

from __future__ import annotations

import math

import numpy as np
import pytest

from grit_integrations.evaluation.ranks import METRICS, rank_metrics, rank_scores


def test_ranks_become_metrics() -> None:
    found = rank_metrics(np.array([0, 3, 9, 10]))
    assert found["recall@1"].tolist() == [1, 0, 0, 0]
    assert found["recall@5"].tolist() == [1, 1, 0, 0]
    assert found["recall@10"].tolist() == [1, 1, 1, 0]
    assert found["ndcg@10"] == pytest.approx([1, 1 / math.log2(5), 1 / math.log2(11), 0])
    assert found["mrr@10"] == pytest.approx([1, 1 / 4, 1 / 10, 0])
    assert tuple(found) == METRICS


def test_ranks_become_recall_and_gain() -> None:
    similarity = np.zeros((3, 12))
    similarity[0, 4] = 1.0  # first
    similarity[1, :3], similarity[1, 7] = 0.9, 0.5  # fourth
    similarity[2, :11] = 0.8  # twelfth
    scores = rank_scores(similarity, [(4,), (7,), (11,)])
    assert (scores.recall_1, scores.recall_5, scores.recall_10) == pytest.approx((1 / 3, 2 / 3, 2 / 3))
    assert scores.ndcg_10 == pytest.approx((1 + 1 / math.log2(5)) / 3)


def test_any_answer_counts_and_ties_do_not() -> None:
    assert rank_scores(np.array([[0.1, 0.9, 0.5]]), [(0, 1)]).recall_1 == 1.0
    assert rank_scores(np.ones((1, 3)), [(0,)]).recall_1 == 0.0  # a model that tells nothing apart finds nothing
