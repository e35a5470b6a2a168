"""What the trainer watches: ranks by hand on cases small enough to check by eye, and the raw model's own scores."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from grit_integrations.evaluation.retrieval_sets import load_retrieval, rank_scores


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


def test_a_set_joins_its_corpus_without_repeats(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text('{"query": ["I", "q"], "pos": ["a", "b"]}\n{"query": ["I", "r"], "pos": ["a"]}\n')
    (tmp_path / "s.corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in "bcd"))
    loaded = load_retrieval(tmp_path / "s.jsonl")
    assert loaded.passages == ("a", "b", "c", "d")
    assert loaded.gold == ((0, 1), (0,))
    assert loaded.instruction == "I"
    assert load_retrieval(tmp_path / "s.jsonl", passages=3, queries=1).passages == ("a", "b", "c")
