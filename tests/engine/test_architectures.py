"""Phi, Gemma and Granite in every role: against stock transformers, also beyond a sliding window. Random weights."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import write_checkpoint, write_variant
from recorded_logits import assert_exact
from transformers import AutoModelForCausalLM

from grit_integrations import Decoding, GritLM, ModelLoadError
from grit_integrations.errors import CacheError, ConfigError
from grit_integrations.evaluation.labelled_texts import PromptEncoder
from grit_integrations.evaluation.nats import summed_nats
from grit_integrations.evaluation.row_kinds import TextRow
from grit_integrations.options import CACHINGS, Caching
from grit_integrations.prompts.formats import Message
from grit_integrations.quoting.branches import Branch, TreeReader
from grit_integrations.results import Vectors
from grit_integrations.training.start.causal_lm import load_model

WORDS = ["the", "heart", "pumps", "blood", "distant", "stars", "burn", "über", "mill", "river", "wheat"]
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "phi3": ("phi3", {}),
    "phi3 sliding": ("phi3", {"sliding_window": 24}),
    "gemma3": ("gemma3_text", {}),
    "gemma3 sliding": ("gemma3_text", {"sliding_window": 24}),
    "granite": ("granite", {}),
}


def text_of(words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


TEXTS = [text_of(3, 1), text_of(20, 2), text_of(90, 3)]  # the last one longer than the windows


@pytest.fixture(scope="module", params=KINDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def path(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind, options = KINDS[name]
    return write_checkpoint(tmp_path_factory.mktemp("model") / "model", kind, seed=len(name), **options)


@pytest.fixture(scope="module")
def grit(path: Path) -> GritLM:
    return GritLM.from_pretrained(path, dtype="float32")


@pytest.fixture(scope="module")
def stock(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def ids_of(grit: GritLM, text: str) -> torch.Tensor:
    return torch.tensor([grit.checkpoint.tokenizer.hf(text).input_ids])


def test_vectors_are_those_of_a_plain_bidirectional_pass(grit: GritLM, stock: Any) -> None:
    header = ids_of(grit, "<|embed|>\n").shape[1]
    wanted: list[Vectors] = []
    for text in TEXTS:
        with torch.inference_mode():
            states = stock.model(ids_of(grit, f"<|embed|>\n{text}"), is_causal=False)[0][0, header:]
        vector = states.mean(dim=0).numpy()
        wanted.append(vector / np.linalg.norm(vector))
    np.testing.assert_allclose(grit.embed_documents(TEXTS), wanted, atol=1e-5, rtol=0)
    alone = np.concatenate([grit.embed_documents([text]) for text in TEXTS])
    np.testing.assert_allclose(alone, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("words", [3, 90])
def test_greedy_answers_are_those_of_stock_generation(words: int, grit: GritLM, stock: Any) -> None:
    ids = ids_of(grit, f"<|user|>\n{text_of(words, 9)}\n<|assistant|>\n")
    with torch.inference_mode():
        wanted = stock.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    answer = grit.generate(text_of(words, 9), decoding=Decoding(max_new_tokens=12))
    assert list(answer.token_ids) == wanted[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("caching", [mode for mode in CACHINGS if mode != "off"])
def test_a_hit_equals_a_miss_in_every_mode(caching: Caching, name: str, grit: GritLM, tmp_path: Path) -> None:
    dense = "sliding" not in name
    assert_exact(grit, tmp_path / "one", "Which?", TEXTS, caching=caching, dense=dense)
    turns = [Message("user", TEXTS[2]), Message("assistant", "They."), Message("user", "Which?")]
    assert_exact(grit, tmp_path / "two", turns, TEXTS[:2], caching=caching, dense=dense)


def test_a_prompt_read_in_blocks_is_a_prompt_read_at_once(grit: GritLM, stock: Any) -> None:
    """Documents are blocks in front of the question, and all of them together are longer than the windows."""
    prompt = grit.prompt("Which?", TEXTS)
    assert len(prompt.plan.blocks) == 3
    answer = grit.generate(prompt, decoding=Decoding(max_new_tokens=1, logprobs=0))
    with torch.inference_mode():
        logits = stock(torch.tensor([prompt.plan.prompt_ids])).logits[0, -1]
    assert answer.token_ids[0] == int(logits.argmax())
    assert answer.logprobs is not None
    assert answer.logprobs[0].logprob == pytest.approx(float(logits.log_softmax(0).max()), abs=1e-4)


def test_verdicts_are_the_stock_model_s_logits(grit: GritLM, stock: Any) -> None:
    """Prompts of many lengths read together behind their blocks, some beyond the windows."""
    yes = grit.checkpoint.tokenizer.encode_texts([" yes"])[0][0]
    found = {each.index: each.score for each in grit.rerank("Which burn?", TEXTS, order="query-first", score="logit")}
    for index, passage in enumerate(TEXTS):
        text = (
            "<|user|>\nGiven a query and a passage, judge whether the passage is relevant to the query or not.\n\n"
            f"Query: Which burn?\nPassage: {passage}\n\n"
            "Answer with yes if the passage is relevant to the query, and no otherwise.\n<|assistant|>\nAnswer:"
        )
        with torch.inference_mode():
            logits = stock(ids_of(grit, text), logits_to_keep=1).logits[0, -1]
        assert found[index] == pytest.approx(float(logits[yes]), abs=1e-4)


def test_branches_behind_a_prompt_see_what_they_see_in_a_text(grit: GritLM, stock: Any) -> None:
    engine, prompt = grit._loaded(), grit.prompt(TEXTS[2]).plan.prompt_ids
    session = grit.with_options(caching="off")._session()
    reading = engine.prefill.begin(session.cache.reuse(grit.prompt(TEXTS[2], caching="off").plan, "off"), room=64)
    while not reading.done:
        engine.prefill.advance(reading)
    engine.prefill.last_logits(reading)
    trunk = Branch(tuple(range(400, 430)), open=True)  # longer than the windows
    reader = TreeReader(engine.weights, reading.cache)
    reader.read([trunk])
    twigs = [Branch((500, 501), trunk), Branch((600,), trunk)]
    for twig, logits in zip(twigs, reader.read(twigs), strict=True):
        with torch.inference_mode():
            wanted = stock(torch.tensor([[*prompt, *trunk.ids, *twig.ids]])).logits[0, -len(twig.ids) :]
        assert torch.allclose(logits, wanted, atol=1e-3)


def test_nats_are_those_of_the_model_s_own_logits(grit: GritLM, stock: Any) -> None:
    encoder = PromptEncoder(grit.checkpoint.tokenizer.hf)
    text = TextRow(("Which burn?", TEXTS[1]))
    ids, labels = encoder.conversation(text)
    with torch.inference_mode():
        logprobs = stock(torch.tensor([ids])).logits[0].log_softmax(-1)
    wanted = -sum(float(logprobs[at - 1, label]) for at, label in enumerate(labels) if label >= 0)
    found, count = summed_nats(grit.lm, encoder, [text], longest=512)
    assert count == sum(label >= 0 for label in labels)
    assert found == pytest.approx(wanted, rel=1e-4)


def test_the_trainer_refuses_it_by_name(name: str, path: Path) -> None:
    with pytest.raises(ConfigError, match=f"is a '{KINDS[name][0]}' model; `grit train` takes mistral, "):
        load_model(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("turns", "chat_template"), ("append_eos", True), ("markers", {"embed": "<E>\n"}), ("pooling", "token:</s>")],
)
def test_the_trainer_refuses_prompts_that_it_does_not_write(
    key: str, value: Any, tiny_path: Path, tmp_path: Path
) -> None:
    path = write_variant(tmp_path / "model", tiny_path, **{key: value})
    with pytest.raises(
        ConfigError, match=f"has {key} in its grit_config.json, and training writes GritLM's own prompts"
    ):
        load_model(path)


# Phi's long RoPE


def long_phi(folder: Path) -> Path:
    """Write a Phi whose angles are others in prompts of more than 64 tokens."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 1.0}
    rope |= {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "original_max_position_embeddings": 64}
    return write_checkpoint(folder, "phi3", rope_parameters=rope, original_max_position_embeddings=64)


def test_a_long_rope_has_the_window_of_its_short_angles(tmp_path: Path) -> None:
    path = long_phi(tmp_path / "model")
    grit = GritLM.from_pretrained(path)
    assert grit.window == 64
    config = json.loads((path / "config.json").read_text())
    rope = config.pop("rope_parameters")
    old = {**config, "rope_scaling": {**rope, "type": rope.pop("rope_type")}}  # as Phi-3's repositories have it
    (path / "config.json").write_text(json.dumps(old))
    assert GritLM(path).window == 64


def test_documents_of_a_long_rope_are_not_moved(tmp_path: Path) -> None:
    grit = GritLM.from_pretrained(long_phi(tmp_path / "model"))
    documents = ["the heart", "the mill"]
    assert_exact(grit, tmp_path / "kv", "Which?", documents, caching="prefix")
    with pytest.raises(CacheError, match="longrope"):
        grit.generate("Which?", documents, caching="doc", decoding=Decoding(max_new_tokens=3))


def test_other_families_are_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model", "granite")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "model_type": "gemma2"}))
    with pytest.raises(ModelLoadError, match=r"is a 'gemma2' model.* of type mistral, .*phi3, gemma3_text, granite"):
        GritLM(path).load()
