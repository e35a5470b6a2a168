"""Models that talk in their tokenizer's chat template, in every role: against stock transformers. Random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chat_models import FAMILIES, write_chat_model
from recorded_logits import assert_exact
from transformers import AutoModelForCausalLM, AutoTokenizer

from grit_integrations import Decoding, GritLM, KVCacheStore
from grit_integrations.evaluation.labelled_texts import IGNORED, PromptEncoder
from grit_integrations.evaluation.row_kinds import TextRow
from grit_integrations.options import CACHINGS, METHODS, Caching
from grit_integrations.prompts.formats import Message

PASSAGES = ["The heart pumps blood through the body.", "Stars shine by fusion.", "A mill grinds wheat."]
CONVERSATION = [
    Message("system", "Be brief."),
    Message("user", "What pumps the blood?"),
    Message("assistant", "The heart."),
    Message("user", "And what grinds wheat?"),
]


@pytest.fixture(scope="module", params=["chatml in bytes", "llama3", "mistral"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def path(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_model(tmp_path_factory.mktemp("chat") / "model", FAMILIES[name], turns="chat_template")


@pytest.fixture(scope="module")
def grit(path: Path) -> GritLM:
    return GritLM.from_pretrained(path)


@pytest.fixture(scope="module")
def stock(path: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)


def conversation(name: str) -> list[Message]:
    return CONVERSATION if FAMILIES[name].system else CONVERSATION[1:]


def test_greedy_answers_are_those_of_stock_generation(name: str, grit: GritLM, stock: tuple[Any, Any]) -> None:
    model, tokenizer = stock
    turns = conversation(name)
    shown = [{"role": turn.role, "content": turn.content} for turn in turns]
    ids = tokenizer.apply_chat_template(shown, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    with torch.inference_mode():
        wanted = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    answer = grit.generate(turns, decoding=Decoding(max_new_tokens=12))
    assert list(answer.token_ids) == wanted[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("caching", [mode for mode in CACHINGS if mode != "off"])
def test_a_hit_equals_a_miss_in_every_mode(caching: Caching, name: str, grit: GritLM, tmp_path: Path) -> None:
    assert_exact(grit, tmp_path / "one", "Which?", PASSAGES, caching=caching)
    assert_exact(grit, tmp_path / "two", conversation(name), PASSAGES[:2], caching=caching)


def test_a_next_turn_starts_from_the_last_one(name: str, grit: GritLM) -> None:
    kept = grit.with_options(kv_store=KVCacheStore(None))
    turns = conversation(name)
    first = kept.generate(turns, decoding=Decoding(max_new_tokens=4))
    again = [*turns, Message("assistant", "A mill."), Message("user", "Why?")]
    assert (
        kept.generate(again, decoding=Decoding(max_new_tokens=4)).usage.cache_read_tokens == first.usage.prompt_tokens
    )


def test_documents_are_read_once_for_all_questions(grit: GritLM) -> None:
    for caching in ("prefix", "doc"):
        kept = grit.with_options(kv_store=KVCacheStore(None), caching=caching)  # type: ignore[arg-type]
        kept.cache_documents(PASSAGES[:1])
        assert kept.stored(PASSAGES) == [True, False, False]
        assert kept.generate("Which?", PASSAGES[:1], decoding=Decoding(max_new_tokens=2)).cache.hits >= 1


def test_the_answer_ends_where_the_template_ends_it(name: str, grit: GritLM) -> None:
    end = grit.checkpoint.tokenizer.hf.get_vocab()[FAMILIES[name].end]
    assert end in grit._loaded().decoder.end_ids


def test_verdicts_are_those_of_the_template_s_one_string(grit: GritLM, stock: tuple[Any, Any]) -> None:
    model, tokenizer = stock
    words = grit.checkpoint.tokenizer.encode_texts([" yes", " no"])
    assert [len(ids) for ids in words] == [1, 1]
    found = {
        each.index: each.score for each in grit.rerank("What pumps?", PASSAGES, order="query-first", score="logit")
    }
    for index, passage in enumerate(PASSAGES):
        asked = (
            "Given a query and a passage, judge whether the passage is relevant to the query or not.\n\n"
            f"Query: What pumps?\nPassage: {passage}\n\n"
            "Answer with yes if the passage is relevant to the query, and no otherwise."
        )
        shown = tokenizer.apply_chat_template(
            [{"role": "user", "content": asked}], add_generation_prompt=True, tokenize=False
        )
        ids = tokenizer(shown + "Answer:", add_special_tokens=False, return_tensors="pt").input_ids
        with torch.inference_mode():
            logits = model(ids, logits_to_keep=1).logits[0, -1]
        assert found[index] == pytest.approx(float(logits[words[0][0]]), abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_every_way_of_reranking_works(method: Any, grit: GritLM) -> None:
    assert sorted(each.index for each in grit.rerank("What pumps?", PASSAGES, method=method)) == [0, 1, 2]


@pytest.mark.parametrize("quote", ["tokens", "spans", "sentences"])
def test_answers_can_be_quoted(quote: str, grit: GritLM) -> None:
    decoding = Decoding.of(None, {"quote": {"method": quote}, "max_new_tokens": 12})
    answer = grit.generate("What pumps?", PASSAGES, decoding=decoding)
    assert any(answer.quotes[0].text in passage for passage in PASSAGES)


def test_embedding_prompts_keep_their_markers(grit: GritLM) -> None:
    tokenizer = grit.checkpoint.tokenizer
    header = tokenizer.encode(tokenizer.format.embedding_header("Find"))
    assert header == list(tokenizer.hf("<|user|>\nFind\n<|embed|>\n").input_ids)
    vectors = grit.embed_queries(PASSAGES)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_of_a_conversation_the_answers_and_their_ends_are_predicted(name: str, grit: GritLM) -> None:
    tokenizer = grit.checkpoint.tokenizer
    encoder = PromptEncoder(tokenizer.hf, tokenizer.format)
    ids, labels = encoder.conversation(TextRow(("What pumps?", "The heart.", "Why?", "So.")))
    said = [tokenizer.encode_texts([text])[0] for text in ("The heart.", "So.")]
    if FAMILIES[name].template.count("%} {{ message['content'] }}"):  # Mistral's answers begin with a space
        said = [tokenizer.encode_texts([text])[0] for text in (" The heart.", " So.")]
    end = tokenizer.hf.get_vocab()[FAMILIES[name].end]
    assert [label for label in labels if label != IGNORED] == [*said[0], end, *said[1], end]
    assert len(ids) == len(labels)
