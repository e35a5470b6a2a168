"""What a ranking holds: every passage once, the best first, ties as they stood."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from passages import PASSAGES, QUERY, Make, some_text

from grit_integrations import GritLM, Ranked


def test_the_best_come_first_and_ties_stay(tiny: GritLM) -> None:
    twice = [*PASSAGES, *PASSAGES]
    ranking = tiny.rerank(QUERY, twice)
    assert [each.score for each in ranking] == sorted((each.score for each in ranking), reverse=True)
    assert sorted(each.index for each in ranking) == list(range(8))
    for first, second in zip(ranking[::2], ranking[1::2], strict=True):
        assert (second.index, second.score) == (first.index + 4, first.score)
    assert tiny.rerank(QUERY, twice, top_n=3) == ranking[:3]
    assert tiny.rerank(QUERY, twice, top_n=99) == ranking


def test_equal_passages_are_judged_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    grit, counts = make(), []
    scheduler = grit._loaded().scheduler
    original = scheduler.submit
    monkeypatch.setattr(scheduler, "submit", lambda job: (counts.append(job.left), original(job))[1])
    assert len(grit.rerank(QUERY, ["a", "b", "a", " ", "a"])) == 5
    assert counts == [2]


@pytest.mark.parametrize(
    ("options", "lowest"),
    [
        ({}, 0.0),
        ({"score": "logit"}, -math.inf),
        ({"method": "listwise"}, 0.0),
        ({"method": "embedding"}, -1.0),
    ],
)
def test_blank_passages_come_last_and_are_not_lost(tiny: GritLM, options: Any, lowest: float) -> None:
    ranking = tiny.rerank(QUERY, [" ", PASSAGES[0], "", PASSAGES[1], "\n"], **options)
    assert ranking[2:] == [Ranked(0, lowest), Ranked(2, lowest), Ranked(4, lowest)]
    assert {each.index for each in ranking[:2]} == {1, 3}
    assert [each.index for each in tiny.rerank(QUERY, [" ", ""], **options)] == [0, 1]


def test_no_passages_no_ranking() -> None:
    assert GritLM("no such model").rerank(QUERY, []) == []


def test_a_thousand_passages(tiny: GritLM) -> None:
    rng = random.Random(0)
    passages = [f"{index} {some_text(rng, 12)}" for index in range(1000)]
    ranking = tiny.rerank(QUERY, passages)
    assert sorted(each.index for each in ranking) == list(range(1000))


def test_vectors_belong_to_their_passages(tiny: GritLM) -> None:
    passages = [PASSAGES[0], " ", PASSAGES[1], PASSAGES[0]]
    vectors = tiny.embed_documents([PASSAGES[0], "x", PASSAGES[1], PASSAGES[0]])
    given = tiny.rerank(QUERY, passages, method="embedding", passage_vectors=vectors)
    made = tiny.rerank(QUERY, passages, method="embedding")
    assert [each.index for each in given] == [each.index for each in made]
    assert [each.score for each in given] == pytest.approx([each.score for each in made], abs=1e-5)
