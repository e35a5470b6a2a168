"""Metrics by hand on cases small enough to check by eye."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from grit_integrations.training.batches import PromptEncoder
from grit_integrations.training.data import Text
from grit_integrations.training.evaluate import (
    RetrievalSet,
    bm25_scores,
    embed,
    load_retrieval,
    model_scores,
    random_scores,
    rank_scores,
    response_nats,
)
from grit_integrations.training.initial import load_model
from grit_integrations.training.tokenizer import load_tokenizer

from .conftest import Trained


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


def found() -> RetrievalSet:
    passages = ("the cat sat on the mat", "a dog ran in the park", "the bird flew over the sea", "the the the the")
    return RetrievalSet("animals", "", ("where did the bird fly over", "dog park"), passages, ((2,), (1,)))


def test_bm25_weighs_rare_words() -> None:
    assert bm25_scores(found()).recall_1 == 1.0


def test_chance_is_one_in_the_number_of_passages() -> None:
    assert random_scores(found()).recall_1 == 0.25


def test_a_set_joins_its_corpus_without_repeats(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text('{"query": ["I", "q"], "pos": ["a", "b"]}\n{"query": ["I", "r"], "pos": ["a"]}\n')
    (tmp_path / "s.corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in "bcd"))
    loaded = load_retrieval(tmp_path / "s.jsonl")
    assert loaded.passages == ("a", "b", "c", "d")
    assert loaded.gold == ((0, 1), (0,))
    assert loaded.instruction == "I"
    assert load_retrieval(tmp_path / "s.jsonl", passages=3, queries=1).passages == ("a", "b", "c")


def test_vectors_come_back_in_order_whatever_the_batches(trained: Trained) -> None:
    model = load_model(str(trained.result.model))
    encoder = PromptEncoder(load_tokenizer(trained.result.model))
    texts = ["the hill " * count for count in (9, 1, 30, 4)]
    together = embed(model, encoder, texts)
    alone = np.stack([embed(model, encoder, [text])[0].numpy() for text in texts])
    assert np.allclose(together.numpy(), alone, atol=1e-5)
    assert np.allclose(np.linalg.norm(alone, axis=1), 1.0, atol=1e-5)


def test_the_trained_toy_retrieves_and_expects_its_answers(trained: Trained) -> None:
    model = load_model(str(trained.result.model))
    encoder = PromptEncoder(load_tokenizer(trained.result.model))
    folder = Path(trained.config.data.data) / "evaluation"
    watched = load_retrieval(folder / "retrieval" / "questions.jsonl")
    assert model_scores(model, encoder, watched, instructed=True).recall_1 > 5 * random_scores(watched).recall_1
    plain, odd = (response_nats(model, encoder, [Text((text,))]) for text in ("The windmill of Arnwick", "zq#xj@kv%wp"))
    assert plain < odd
