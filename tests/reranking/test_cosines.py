"""Reranking by vectors: cosines, vectors that exist already, and what is wrong with vectors."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from grit_integrations import ContextOverflowError, GritLM, OptionError
from grit_integrations.reranking import Reranking
from grit_integrations.reranking.cosines import scores

PASSAGES = ["The heart pumps blood.", "Stars shine by fusion.", "Plants make sugar from light."]
SETTINGS = Reranking(method="embedding")


def test_scores_are_cosines(mini: GritLM) -> None:
    query = mini.embed_queries(["Which organ pumps blood?"], instruction="Find the passage")[0]
    found = scores(
        mini._session(),
        "Which organ pumps blood?",
        PASSAGES,
        Reranking(method="embedding", instruction="Find the passage"),
        None,
    )
    assert np.allclose(found, mini.embed_documents(PASSAGES) @ query, atol=1e-5)
    assert max(found) == found[0] and all(isinstance(score, float) and -1 <= score <= 1 for score in found)


def test_vectors_that_exist_are_used(mini: GritLM) -> None:
    vectors = mini.embed_documents(PASSAGES)
    wanted = scores(mini._session(), "What shines?", PASSAGES, SETTINGS, None)
    for given in (vectors, vectors.tolist(), 1e30 * vectors, vectors.astype(np.float64)):
        assert np.allclose(scores(mini._session(), "What shines?", ["x", "y", "z"], SETTINGS, given), wanted, atol=1e-5)


def test_a_model_without_normalising_gives_cosines(mini: GritLM) -> None:
    plain = GritLM("grit-mini", normalize=False)
    wanted = scores(mini._session(), "What shines?", PASSAGES, SETTINGS, None)
    assert np.allclose(scores(plain._session(), "What shines?", PASSAGES, SETTINGS, None), wanted, atol=1e-5)


def test_a_vector_of_zeros_is_near_to_nothing(mini: GritLM) -> None:
    assert scores(mini._session(), "What?", ["x"], SETTINGS, np.zeros((1, mini.dim))) == [0.0]


def test_nothing_in_nothing_out(mini: GritLM) -> None:
    assert scores(mini._session(), "What?", [], SETTINGS, None) == []


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((2, 4)), "3 passages need"),
        (np.zeros(3), "shape"),
        ([[1.0], [1.0, 2.0], [3.0]], "array of numbers"),
        ([["a"], ["b"], ["c"]], "array of numbers"),
        (np.ones((3, 4)), "components"),
        ([[1.0] * 4, [float("nan")] * 4, [1.0] * 4], r"passage_vectors\[1\]"),
        ([[1.0] * 4, [1.0] * 4, [float("inf")] * 4], r"passage_vectors\[2\]"),
    ],
)
def test_wrong_vectors_are_refused(tiny: GritLM, vectors: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        scores(tiny._session(), "What?", PASSAGES, SETTINGS, vectors)


def test_long_passages_lose_their_end(tiny: GritLM, caplog: pytest.LogCaptureFixture) -> None:
    long = "The heart pumps blood. " * 2000
    with caplog.at_level(logging.WARNING, logger="grit_integrations"):
        limited = scores(tiny._session(), "What?", [long], Reranking(method="embedding", passage_tokens=6), None)
        assert not caplog.records
        scores(tiny._session(), "What?", [long], SETTINGS, None)
    assert "was cut" in caplog.text
    start = tiny.checkpoint.tokenizer.first_tokens(long, 6)
    assert np.allclose(limited, scores(tiny._session(), "What?", [start], SETTINGS, None), atol=1e-5)


def test_a_query_that_does_not_fit_is_refused(tiny: GritLM) -> None:
    with pytest.raises(ContextOverflowError):
        scores(tiny._session(), "what " * 5000, PASSAGES, SETTINGS, None)
