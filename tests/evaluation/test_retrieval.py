"""Metrics by hand on cases small enough to check by eye, BM25 and chance among them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from grit_integrations import GritLM
from grit_integrations.evaluation.ranks import METRICS, rank_metrics
from grit_integrations.evaluation.retrieval import (
    bm25_ranking,
    bm25_similarity,
    model_rankings,
    random_ranking,
    ranking_records,
    retrieval_table,
    set_figures,
)
from grit_integrations.evaluation.retrieval_sets import RetrievalSet

ANIMALS = RetrievalSet(
    "animals",
    "Given a question, retrieve passages that answer the question",
    ("where did the bird fly over", "dog park"),
    ("the cat sat on the mat", "a dog ran in the park", "the bird flew over the sea", "the the the the"),
    ((2,), (1,)),
)


def test_bm25_weighs_rare_words() -> None:
    assert bm25_ranking(ANIMALS).metrics["recall@1"].tolist() == [1, 1]


def test_bm25_is_the_formula_with_the_stated_parameters() -> None:
    scores = bm25_similarity(ANIMALS)
    lengths = np.array([6, 6, 6, 4])
    norm = 1.2 * (1 - 0.75 + 0.75 * lengths / lengths.mean())
    park = math.log(5 / 1) * 2.2 / (1 + norm[1])  # "dog" and "park" stand once in one passage each
    assert scores[1] == pytest.approx([0, 2 * park, 0, 0])


@pytest.mark.parametrize(("count", "right"), [(4, 1), (5, 2), (12, 1), (3, 3)])
def test_chance_is_the_average_over_all_orders(count: int, right: int) -> None:
    found = RetrievalSet("s", "", ("q",), tuple(map(str, range(count))), (tuple(range(right)),))
    chosen = random_ranking(found).metrics
    places = list(itertools.combinations(range(count), right))  # where the right ones may stand
    every = rank_metrics(np.array([min(each) for each in places]))
    for metric in METRICS:
        assert chosen[metric].tolist() == pytest.approx([every[metric].mean()])


def test_a_model_is_measured_beside_bm25_and_chance(mini: GritLM) -> None:
    seen: list[int] = []
    models = model_rankings(mini, ANIMALS, advance=seen.append)
    assert [each.system for each in models] == ["model", "model, instructed"]
    assert models[0].metrics["recall@1"].tolist() == [1, 1]
    assert sum(seen) == len(ANIMALS.passages) + 2 * len(ANIMALS.queries)
    rankings = [random_ranking(ANIMALS), bm25_ranking(ANIMALS), *models]
    figures = set_figures(ANIMALS, rankings, seed=0)
    assert figures["systems"]["random order"]["recall@1"]["value"] == 0.25
    assert figures["recall@10 against BM25"]["model"]["value"] == 1.0
    table = retrieval_table({"animals": figures})
    assert [row[2] for row in table.rows] == ["random order", "BM25", "model", "model, instructed"]
    records = list(ranking_records(ANIMALS, rankings))
    assert records[1]["query"] == "dog park"
    assert records[1]["ranks"] == {"BM25": 1, "model": 1, "model, instructed": 1}
