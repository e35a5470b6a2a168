"""Reading retrieval sets: their passages and those beside them, and drawing a part."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from grit_integrations.evaluation.retrieval_sets import RetrievalSet, load_retrieval, narrowed


def test_a_set_joins_its_corpus_without_repeats(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text('{"query": ["I", "q"], "pos": ["a", "b"]}\n{"query": ["I", "r"], "pos": ["a"]}\n')
    (tmp_path / "s.corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in "bcd"))
    loaded = load_retrieval(tmp_path / "s.jsonl")
    assert loaded.passages == ("a", "b", "c", "d")
    assert loaded.gold == ((0, 1), (0,))
    assert loaded.instruction == "I"
    assert load_retrieval(tmp_path / "s.jsonl", passages=3, queries=1).passages == ("a", "b", "c")


@given(st.integers(1, 6), st.integers(1, 12) | st.none(), st.integers(0, 3))
def test_narrowing_keeps_what_answers(queries: int, passages: int | None, seed: int) -> None:
    texts = tuple(f"passage {n}" for n in range(10))
    full = RetrievalSet("s", "i", tuple(f"query {n}" for n in range(5)), texts, ((0,), (1, 9), (2,), (0,), (7,)))
    found = narrowed(full, queries=queries, passages=passages, seed=seed)
    assert len(found.queries) == min(queries, 5)
    right = {index for gold in found.gold for index in gold}
    assert len(found.passages) == (10 if passages is None else max(min(passages, 10), len(right)))
    answers = dict(zip(full.queries, full.gold, strict=True))
    for query, gold in zip(found.queries, found.gold, strict=True):
        assert [found.passages[index] for index in gold] == [texts[index] for index in answers[query]]
    assert found == narrowed(full, queries=queries, passages=passages, seed=seed)
