"""Pointwise reranking: the reference's scores, alone and in batches, and the order of a checkpoint."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import write_checkpoint
from dense import dense_logits
from passages import PASSAGES, QUERY, logits, some_text
from transformers import AutoModelForCausalLM, AutoTokenizer

from grit_integrations import GritLM
from grit_integrations.errors import ModelLoadError, OptionError
from grit_integrations.options import ORDERS, Order
from grit_integrations.prompts.plan import plan_prompt
from grit_integrations.reranking.wording import verdict_ids, verdict_parts

REFERENCE = (
    "<|user|>\nGiven a query and a passage, judge whether the passage is relevant to the query or not.\n\n"
    "Query: {query}\nPassage: {passage}\n\n"
    "Answer with yes if the passage is relevant to the query, and no otherwise.\n<|assistant|>\nAnswer:"
)


@pytest.mark.parametrize("kind", ["mistral", "llama", "qwen3", "mixtral"])
def test_the_order_is_that_of_the_reference_s_raw_logits(tmp_path: Path, kind: str) -> None:
    """50 random cases on each of four random checkpoints, against stock transformers on the reference's one string."""
    path = write_checkpoint(tmp_path / kind, kind, seed=len(kind))
    grit, rng = GritLM.from_pretrained(path, dtype="float32"), random.Random(kind)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    for _ in range(50):
        query, passages = some_text(rng, 8), [some_text(rng, 40) for _ in range(4)]
        wanted = []
        for passage in passages:
            ids = tokenizer(REFERENCE.format(query=query, passage=passage), return_tensors="pt").input_ids
            with torch.inference_mode():
                wanted.append(float(model(ids, logits_to_keep=1).logits[0, -1, 5081]))
        found = grit.rerank(query, passages, order="query-first", score="logit")
        assert [each.score for each in found] == pytest.approx([wanted[each.index] for each in found], abs=1e-4)
        reference = sorted(range(4), key=lambda index: -wanted[index])
        if min(abs(a - b) for a in wanted for b in wanted if a is not b) > 2e-4:
            assert [each.index for each in found] == reference


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kernel", [None, "eager", "sdpa"])
def test_prompts_read_together_give_what_each_gives_alone(tiny_path: Path, order: Order, kernel: str | None) -> None:
    grit = GritLM.from_pretrained(tiny_path, dtype="float32", attn_implementation=kernel)
    tokenizer = grit.checkpoint.tokenizer
    yes, no = verdict_ids(tokenizer)
    lm = GritLM.from_pretrained(tiny_path, dtype="float32").lm  # eager adds a mask of booleans as if of numbers
    alone = [
        dense_logits(lm, plan_prompt(verdict_parts(QUERY, passage, order=order, prompts=tokenizer.format), tokenizer))
        for passage in PASSAGES
    ]
    assert logits(grit, QUERY, PASSAGES, order) == pytest.approx([float(each[yes]) for each in alone], abs=1e-5)
    shares = {each.index: each.score for each in grit.rerank(QUERY, PASSAGES, order=order)}
    wanted = [math.exp(each[yes]) / (math.exp(each[yes]) + math.exp(each[no])) for each in alone]
    assert [shares[index] for index in range(len(PASSAGES))] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_a_score_does_not_depend_on_the_batch(tiny: GritLM, order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(order)
    passages = [some_text(rng, 60) for _ in range(12)]
    together = logits(tiny, QUERY, passages, order)
    one_by_one = [logits(tiny, QUERY, [passage], order)[0] for passage in passages]
    assert together == pytest.approx(one_by_one, abs=1e-5)
    monkeypatch.setattr(tiny._loaded().encoder, "batch_tokens", 200)
    assert together == pytest.approx(logits(tiny, QUERY, passages, order), abs=1e-5)


def test_cosines_are_added_to_the_verdict(tiny: GritLM) -> None:
    cosines = {each.index: each.score for each in tiny.rerank(QUERY, PASSAGES, method="embedding", instruction="Find")}
    plain = {each.index: each.score for each in tiny.rerank(QUERY, PASSAGES)}
    vectors = tiny.embed_documents(PASSAGES)
    for known in (None, vectors):
        both = tiny.rerank(QUERY, PASSAGES, cosine=3.0, instruction="Find", passage_vectors=known)
        for each in both:
            odds = math.log(plain[each.index] / (1 - plain[each.index])) + 3.0 * cosines[each.index]
            assert each.score == pytest.approx(1 / (1 + math.exp(-odds)), abs=1e-5)
    logits = {each.index: each.score for each in tiny.rerank(QUERY, PASSAGES, score="logit")}
    for each in tiny.rerank(QUERY, PASSAGES, score="logit", cosine=2.0, instruction="Find"):
        assert each.score == pytest.approx(logits[each.index] + 2.0 * cosines[each.index], abs=1e-4)


@pytest.mark.parametrize("options", [{"cosine": -1.0}, {"cosine": math.nan}, {"cosine": 1.0, "method": "listwise"}])
def test_an_impossible_cosine_is_refused(tiny: GritLM, options: Any) -> None:
    with pytest.raises(OptionError, match="cosine="):
        tiny.rerank(QUERY, PASSAGES, **options)


def test_scores_of_all_passages_are_probabilities(mini: GritLM) -> None:
    scores = mini.rerank("What pumps the blood?", PASSAGES[:3])
    assert sorted(each.index for each in scores) == [0, 1, 2]
    assert all(0 <= each.score <= 1 for each in scores)


def test_the_checkpoint_s_own_order_is_the_default(tiny_path: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_path, tmp_path / "m"))
    (path / "grit_config.json").write_text(json.dumps({"reranking_order": "passage-block"}))
    grit = GritLM.from_pretrained(path)
    assert grit.rerank(QUERY, PASSAGES) == grit.rerank(QUERY, PASSAGES, order="passage-block")
    (path / "grit_config.json").write_text(json.dumps({"reranking_order": "last-first"}))
    with pytest.raises(ModelLoadError, match=r"'last-first'.*'query-first', 'passage-first', 'passage-block'"):
        GritLM(path).rerank(QUERY, PASSAGES)


def test_without_one_it_is_the_reference_s(tiny: GritLM) -> None:
    assert tiny.rerank(QUERY, PASSAGES) == tiny.rerank(QUERY, PASSAGES, order="query-first")
