"""Nats of held-out text, and the triples."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from grit_integrations import GritLM
from grit_integrations.evaluation.labelled_texts import PromptEncoder
from grit_integrations.evaluation.nats import response_nats
from grit_integrations.evaluation.perplexity import perplexity_figures, perplexity_table
from grit_integrations.evaluation.row_kinds import TextRow
from grit_integrations.evaluation.triples import load_triples, triple_figures, triple_table
from grit_integrations.prompts.formats import rag_prompt

TEXTS = (
    TextRow(("The mill stands by the river and grinds wheat.",)),
    TextRow(("Snow fell for nine days in March, and the road was closed.",)),
)


def test_nats_are_those_of_training(mini: GritLM) -> None:
    counted: list[int] = []
    found = perplexity_figures(mini, {"text": TEXTS}, seed=0, advance=counted.append)["text"]
    encoder = PromptEncoder(mini.checkpoint.tokenizer.hf)
    assert found["nats per token"]["value"] == pytest.approx(response_nats(mini.lm, encoder, TEXTS), abs=1e-4)
    assert found["nats per token"]["low"] <= found["nats per token"]["value"] <= found["nats per token"]["high"]
    assert found["nats per token"]["value"] < math.log(mini.lm.config.vocab_size)
    assert found["tokens"] == sum(len(encoder.conversation(text)[0]) - 1 for text in TEXTS)
    assert len(counted) == 2


def test_only_responses_count_and_none_is_said(tiny: GritLM) -> None:
    asked = TextRow((rag_prompt("What fell?", ["Snow fell."]), "Snow"))
    cut = TextRow(("word " * 600, "answer " * 600))
    found = perplexity_figures(tiny, {"human": [asked], "text": TEXTS, "long": [cut]}, seed=0)
    assert found["human"]["tokens"] == tiny.count_tokens("Snow") + 1
    table = perplexity_table(found)
    assert table.rows[0][0] == "human (1)"


def test_a_model_in_bfloat16_is_measured_as_it_is(tiny_path: Path, tiny: GritLM) -> None:
    rough = GritLM.from_pretrained(tiny_path, dtype="bfloat16", device="cpu")
    found, exact = (perplexity_figures(grit, {"text": TEXTS}, seed=0)["text"] for grit in (rough, tiny))
    assert found["nats per token"]["value"] == pytest.approx(exact["nats per token"]["value"], rel=0.01)


def test_triples_are_complete_and_the_bundled_model_tells_them_apart(mini: GritLM) -> None:
    assert len(load_triples()) == 12
    assert all(text.strip() for triple in load_triples() for text in (triple.anchor, triple.similar, triple.dissimilar))
    figures = triple_figures(mini, seed=0)
    for side in ("document", "query"):
        assert figures[side]["similar nearer"]["value"] >= 0.75
        assert len(figures[side]["failed"]) <= 3
    assert len(triple_table(figures).rows) == 2
