"""The reranking stream: the reference's prompt, and what is predicted behind it."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from pathlib import Path

import pytest

from grit_integrations import GritLM
from grit_integrations.training import train
from grit_integrations.training.batches import IGNORED, PromptEncoder
from grit_integrations.training.data import Pair
from grit_integrations.training.reranking import as_ranking, as_verdicts

from .conftest import RECIPE, tiny_recipe

PAIR = Pair("", "where is the mill?", ("by the hill",), ("by the sea", "in town", "n2", "n3", "n4"))


def test_a_verdict_is_asked_for_in_the_reference_s_words(tiny: GritLM) -> None:
    encoder = PromptEncoder(tiny.checkpoint.tokenizer.hf)
    yes, no = as_verdicts(PAIR, random.Random(0))
    ids, labels = encoder.conversation(yes)
    assert encoder.tokenizer.decode(ids) == (
        "<s> <|user|>\nGiven a query and a passage, judge whether the passage is relevant to the query or not.\n\n"
        "Query: where is the mill?\nPassage: by the hill\n\n"
        "Answer with yes if the passage is relevant to the query, and no otherwise.\n<|assistant|>\nAnswer: yes</s>"
    )
    assert [label for label in labels if label != IGNORED] == [5081, 2]  # the id that the reference's reranker reads
    assert [label for label in encoder.conversation(no)[1] if label != IGNORED] == [708, 2]


def test_a_ranking_lists_the_positive_first() -> None:
    for seed in range(20):
        text = as_ranking(PAIR, random.Random(seed))
        order = [int(place.strip("[]")) for place in text.turns[1].split(" > ")]
        shown = {int(line[1]): line[4:] for line in text.turns[0].splitlines() if line.startswith("[")}
        assert [shown[place] for place in order] == ["by the hill", "by the sea", "in town", "n2", "n3"]
        assert "I will provide you with 5 passages" in text.turns[0]
    assert len({as_ranking(PAIR, random.Random(seed)).turns for seed in range(20)}) > 5


@pytest.mark.parametrize("kind", ["pointwise", "listwise"])
def test_the_stream_learns_beside_the_others(tmp_path: Path, kind: str) -> None:
    data = shutil.copytree(RECIPE.parent / "tiny", tmp_path / "rows")
    (data / "reranking").mkdir()
    rows = [json.loads(line) for line in (data / "embedding" / "names.jsonl").read_text().splitlines()]
    (data / "reranking" / "names.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows if row["neg"]))
    config = tiny_recipe(tmp_path / "run", bag_steps=0, steps=25, reranking_weight=1.0, reranking_kind=kind)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, data=str(data)),
        model=dataclasses.replace(config.model, start="random", context=1024),
    )
    train(config, progress=False)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines if "seconds" in line]
    assert all({"embedding", "generative", "reranking"} <= step.keys() for step in steps)
    assert steps[-1]["reranking"] < steps[0]["reranking"] - 0.5
