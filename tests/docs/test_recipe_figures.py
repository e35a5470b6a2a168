"""What training, evaluation and the model card's pages say of recipes, defaults and shapes is what those are."""

from __future__ import annotations

import inspect
import json
import re
import tomllib
from typing import Any

from pages import CARD, DOCS, MINI, README, ROOT, constant, prose, result

from grit_integrations import Quoting
from grit_integrations.evaluation.run import EvaluationOptions, all_arms

EVALUATION, TRAINING, QUOTING = (prose(DOCS / f"{page}.md") for page in ("evaluation", "training", "quoting"))
CONFIG = json.loads((MINI / "config.json").read_text())
SIZE = f"{result('grit-mini-answers')['model']['parameters'] / 1e6:.1f}"


def recipe(name: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / "examples" / "training" / name).read_text(encoding="utf-8"))


def test_defaults_of_the_evaluation_are_those_of_its_options() -> None:
    options, quick = EvaluationOptions(), EvaluationOptions().quick()
    assert f"(`--answer-sets {','.join(options.answer_sets)}`), {options.questions} of each set" in EVALUATION
    assert f"There are {options.rows} rows of each set" in EVALUATION
    assert f"{quick.questions} questions in all {len(all_arms(options))} arms" in EVALUATION
    assert f"limits the passages to {quick.passages}" in EVALUATION
    assert f"writes greedily, at most {constant('evaluation', 'NEW_TOKENS')} tokens" in EVALUATION
    assert f"middle 95 % of {constant('evaluation', 'RESAMPLES'):,} seeded bootstrap resamples" in EVALUATION
    assert f"truncated to {constant('evaluation', 'LONGEST')} tokens" in EVALUATION
    settings = result("grit-mini-retrieval")["settings"]["bm25"]
    assert f"`k1={settings['k1']}`, `b={settings['b']}`" in EVALUATION
    bm25 = result("grit-mini-retrieval")["retrieval"]["squad-v1.1-dev-part"]["systems"]["BM25"]["recall@10"]["value"]
    assert f"against {bm25:.3f} on SQuAD" in EVALUATION
    (triples,) = (ROOT / "grit_integrations" / "evaluation").rglob("triples.json")
    assert f"({len(json.loads(triples.read_text()))} fixed triples)" in EVALUATION


def test_words_of_the_question_are_as_long_as_the_page_says() -> None:
    named = {4: "four"}[constant("", "_LONG_WORD")]
    assert f"(of {named} letters or more)" in QUOTING
    assert "`longest`, `length_penalty`" in QUOTING
    assert {"longest", "length_penalty", "sentences", "neighbours", "echo"} < set(inspect.signature(Quoting).parameters)


def test_the_recipe_that_is_described_is_the_one_that_is_kept() -> None:
    first = recipe("grit-mini.toml")
    model, width = first["model"], CONFIG["hidden_size"]
    bag = width - model["workspace"] - 1  # one coordinate fills up
    assert f"`workspace = {model['workspace']}` of {width} coordinates" in TRAINING
    assert f"the other {bag} coordinates" in TRAINING
    assert first["rag"]["context_lengths"][0] == 0 and first["rag"]["context_shares"][0] == 0.6
    assert "In six of ten RAG batches" in TRAINING
    assert first["data"]["instruction_dropout"] == 0.5 and "half the batches drop the query's instruction" in TRAINING
    every = {4: "fourth", 8: "eighth"}
    tokens = f"{first['generative_tokens']:,} tokens of text", f"{first['embedding_tokens']:,} of passages"
    text, pairs = every[first["generative_every"]], every[first["embedding_every"]]
    assert f"with {first['rag']['tokens']:,} tokens 0.7 to 0.8" in TRAINING
    assert f"(every {text} with {tokens[0]}, every {pairs} with {tokens[1]})" in TRAINING


def test_the_model_is_as_large_as_its_config() -> None:
    layers, width = CONFIG["num_hidden_layers"], CONFIG["hidden_size"]
    assert f"with {SIZE} million parameters ({width} wide, {layers} layers)" in TRAINING
    card = prose(CARD)
    heads, kv_heads, dim = (CONFIG[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    assert f"language model of {SIZE} million parameters" in card
    shape = f"{width} wide, {layers} layers, {heads} heads of {dim} ({kv_heads} for keys and values)"
    assert f"{shape}, MLP {CONFIG['intermediate_size']}, context {CONFIG['max_position_embeddings']:,}" in card
    assert f"untied, {CONFIG['vocab_size']:,} byte-level BPE tokens" in card
    assert f"mean pooling, {width} dimensions" in card
    assert f"({(MINI / 'model.safetensors').stat().st_size / 1e6:.0f} MB)" in card
    assert f"has {SIZE}M parameters" in prose(README)


def test_the_card_s_steps_and_minutes_are_the_recipes() -> None:
    card = prose(CARD)
    assert f"{recipe('grit-mini.toml')['bag_steps']} steps on the embedding table alone" in card
    assert re.search(rf"[\d,]+ steps in {recipe('grit-mini-2.toml')['minutes']:.0f} minutes", card)
