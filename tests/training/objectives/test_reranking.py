"""The reranking stream: the reference's prompt, what is predicted behind it, and that it learns beside the others."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from pathlib import Path

import pytest
from recipes import RECIPE, tiny_recipe
from transformers import AutoTokenizer

from grit_integrations import GritLM
from grit_integrations.errors import ConfigError
from grit_integrations.evaluation.labelled_texts import IGNORED, PromptEncoder
from grit_integrations.evaluation.row_kinds import Pair, parse_pair
from grit_integrations.options import ORDERS
from grit_integrations.training import train
from grit_integrations.training.config import RerankingConfig, config_from_table
from grit_integrations.training.export import grit_config
from grit_integrations.training.objectives.objective import Context
from grit_integrations.training.objectives.reranking import RerankingBatch, RerankingObjective, judged, shuffled
from grit_integrations.training.rows.row_files import RowFile
from grit_integrations.training.rows.stream import BatchPlan, Stream

QUERY, POSITIVE, NEGATIVES = "where is the mill?", "by the hill", ("by the sea", "in town", "n2", "n3", "n4")
PAIR = Pair("", QUERY, (POSITIVE,), NEGATIVES)
YES, NO = 5081, 708  # the ids that the reference's reranker reads
WORDS = {
    "query-first": (
        "<s> <|user|>\nGiven a query and a passage, judge whether the passage is relevant to the query or not.\n\n"
        "Query: where is the mill?\nPassage: by the hill\n\n"
        "Answer with yes if the passage is relevant to the query, and no otherwise.\n<|assistant|>\nAnswer:"
    ),
    "passage-first": (
        "<s> <|user|>\nby the hill\n\nQuery: where is the mill?\n\n"
        "Answer with yes if the prior passage is relevant to the query, and no otherwise.\n<|assistant|>\nAnswer:"
    ),
    "passage-block": (
        "<s> <|embed|>\nby the hill \n<|user|>\nQuery: where is the mill?\n\n"
        "Answer with yes if the prior passage is relevant to the query, and no otherwise.\n<|assistant|>\nAnswer:"
    ),
}


@pytest.fixture
def encoder(tiny: GritLM) -> PromptEncoder:
    return PromptEncoder(tiny.checkpoint.tokenizer.hf)


def objective(folder: Path, encoder: PromptEncoder, settings: RerankingConfig) -> RerankingObjective:
    """Return the objective of a file with one row."""
    path = folder / "rows.jsonl"
    path.write_text(json.dumps({"query": QUERY, "pos": [POSITIVE], "neg": NEGATIVES}) + "\n")
    plan = BatchPlan(48, 48, 1, same_file=False, least=1)
    stream = Stream([RowFile(path, parse_pair)], plan, weights={}, seed="0")
    return RerankingObjective(settings, stream, Context(tiny_recipe(folder / "run"), encoder, 4096))


def prompt(batch: RerankingBatch, row: int, encoder: PromptEncoder) -> str:
    return str(encoder.tokenizer.decode(batch.prompts.ids[row, : int(batch.asks[row]) + 1]))


@pytest.mark.parametrize("order", ORDERS)
def test_a_verdict_is_asked_for_in_these_words(tmp_path: Path, encoder: PromptEncoder, order: str) -> None:
    settings = RerankingConfig(orders={order: 1.0}, passages=4)  # type: ignore[dict-item]
    batch = objective(tmp_path, encoder, settings).next_batch()
    assert batch.groups == (4,) and batch.weight == 1.0
    assert prompt(batch, 0, encoder) == WORDS[order]
    assert [[label for label in row if label != IGNORED] for row in batch.labels.tolist()] == [[YES], [NO], [NO], [NO]]
    assert all(batch.labels[row, ask] != IGNORED for row, ask in enumerate(batch.asks.tolist()))


def test_a_ranking_lists_the_positive_first(tmp_path: Path, encoder: PromptEncoder) -> None:
    stream = objective(tmp_path, encoder, RerankingConfig(listwise=1.0, passages=5))
    answers = set()
    for _ in range(10):
        batch = stream.next_batch()
        answer = [label for label in batch.labels[0].tolist() if label != IGNORED]
        assert answer.pop() == encoder.prompts.eos_id
        said = encoder.tokenizer.decode(answer)
        order = [int(place.strip("[] ")) for place in said.split(" > ")]
        asked = prompt(batch, 0, encoder)
        shown = {int(line[1]): line[4:] for line in asked.splitlines() if line.startswith("[")}
        assert shown[order[0]] == POSITIVE
        assert sorted(order) == [1, 2, 3, 4, 5] and "I will provide you with 5 passages" in asked
        assert not batch.groups
        answers.add(said)
    assert len(answers) > 2


def test_a_query_has_one_positive_and_some_negatives() -> None:
    for seed in range(20):
        few, all_ = judged(PAIR, random.Random(seed), passages=3), judged(PAIR, random.Random(seed), passages=9)
        assert few.passages[0] == all_.passages[0] == POSITIVE
        assert len(few.passages) == 3 and set(few.passages[1:]) < set(NEGATIVES)
        assert sorted(all_.passages[1:]) == sorted(NEGATIVES)


def test_the_rest_of_a_ranking_keeps_its_order() -> None:
    passages = [POSITIVE, *NEGATIVES]
    for seed in range(20):
        shown, said = shuffled(passages, random.Random(seed))
        order = [int(place.strip("[]")) - 1 for place in said.split(" > ")]
        assert sorted(shown) == sorted(passages) and shown[order[0]] == POSITIVE
        assert order[1:] == sorted(order[1:])


@pytest.mark.parametrize("listwise", [0.0, 1.0])
def test_the_stream_learns_beside_the_others(tmp_path: Path, listwise: float) -> None:
    data = shutil.copytree(RECIPE.parent / "tiny", tmp_path / "rows")
    (data / "reranking").mkdir()
    rows = [json.loads(line) for line in (data / "embedding" / "names.jsonl").read_text().splitlines()]
    (data / "reranking" / "names.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows if row["neg"]))
    settings = RerankingConfig(
        tokens=500, passages=2, listwise=listwise, orders={"query-first": 0.2, "passage-block": 0.8}
    )
    config = tiny_recipe(tmp_path / "run", bag_steps=0, steps=25, evaluate_every=25, reranking=settings)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, data=str(data)),
        model=dataclasses.replace(config.model, start="random", context=1024),
    )
    result = train(config, progress=False)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines if "seconds" in line]
    assert all({"embedding", "generative", "reranking"} <= step.keys() for step in steps)
    name = "reranking.rankings" if listwise else "reranking.verdicts"
    assert steps[-1][name] < steps[0][name] - 0.5
    saved = json.loads((result.model / "grit_config.json").read_text())
    assert saved["reranking_order"] == "passage-block"
    ours = GritLM(result.model, dtype="float32")
    assert ours.rerank(QUERY, NEGATIVES) == ours.rerank(QUERY, NEGATIVES, order="passage-block")


def test_a_model_that_learned_no_verdicts_names_no_order(tiny_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_path)
    assert "reranking_order" not in grit_config(tokenizer)
    trained = RerankingConfig(orders={"passage-first": 0.4, "query-first": 0.6})
    assert grit_config(tokenizer, reranking=trained)["reranking_order"] == "query-first"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"orders": {"last": 1.0}}, r"reranking\.orders has 'last'.*passage-block"),
        ({"orders": {}}, r"reranking\.orders is \(\)"),
        ({"orders": {"query-first": 0.0}}, r"reranking\.orders is \(0\.0,\)"),
        ({"orders": {"query-first": -1.0, "passage-first": 2.0}}, r"reranking\.orders.*0 or above"),
        ({"listwise": 1.5}, r"reranking\.listwise is 1\.5.*0\.\.1"),
        ({"passages": 0}, r"reranking\.passages is 0.*above 0"),
        ({"every": 0}, r"reranking\.every is 0"),
        ({"tokens": 0}, r"reranking\.tokens is 0"),
        ({"start": True}, r"reranking\.start.*model\.start = 'reader'"),
        ({"kind": "pointwise"}, r"Unknown key reranking\.kind"),
    ],
)
def test_recipes_that_cannot_be_run_are_refused(table: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config_from_table({"output": "out", "data": {"data": "rows"}, "reranking": table})
