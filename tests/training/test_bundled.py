"""The bundled grit-mini: what a stock library finds in its directory, and that it retrieves."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import AutoTokenizer

from grit_integrations import GritLM
from grit_integrations.evaluation.labelled_texts import PromptEncoder
from grit_integrations.evaluation.nats import CausalLM, response_nats
from grit_integrations.evaluation.row_kinds import TextRow
from grit_integrations.training.config import RerankingConfig
from grit_integrations.training.export import grit_config
from grit_integrations.training.start.bpe_tokenizer import load_tokenizer
from grit_integrations.training.start.causal_lm import load_model

MINI = Path(str(files("grit_integrations"))) / "bundled" / "grit-mini"

PASSAGES = {
    "Which gas do plants take in for photosynthesis?": "In photosynthesis, plants take in carbon dioxide.",
    "How long does the Moon take to orbit the Earth?": "The Moon orbits the Earth once in about 27 days.",
    "What does a dependency with yield do in an API?": "A dependency with yield runs its exit code after the response.",
    "Who wrote the Declaration of Independence?": "Jefferson drafted the Declaration of Independence in June 1776.",
    "What are the symptoms of anemia?": "Symptoms of anemia include fatigue, pale skin and a fast heartbeat.",
    "How is a telescope's mirror coated?": "The mirror of a telescope is coated with a thin layer of aluminium.",
}


@pytest.fixture(scope="module")
def mini() -> tuple[CausalLM, PromptEncoder]:
    return load_model(MINI), PromptEncoder(load_tokenizer(MINI))


def test_the_directory_is_small_whole_and_names_no_other() -> None:
    assert (MINI / "model.safetensors").stat().st_size <= 60_000_000
    with safe_open(MINI / "model.safetensors", "pt") as weights:
        assert {str(weights.get_tensor(name).dtype) for name in weights.keys()} == {"torch.bfloat16"}  # noqa: SIM118
    assert json.loads((MINI / "config.json").read_text())["architectures"] == ["MistralForCausalLM"]
    assert "TODO" not in (MINI / "README.md").read_text()


def test_golden_ids() -> None:
    saved = json.loads((MINI / "grit_config.json").read_text())
    order = RerankingConfig(orders={"passage-block": 1.0})
    assert saved == grit_config(AutoTokenizer.from_pretrained(MINI), reranking=order)


def test_questions_find_their_passages() -> None:
    grit = GritLM.bundled()
    similarity = grit.embed_queries(list(PASSAGES)) @ grit.embed_documents(list(PASSAGES.values())).T
    assert similarity.argmax(axis=1).tolist() == list(range(len(PASSAGES)))


def test_passages_are_judged() -> None:
    """Of six short passages the one that answers comes first for nearly every question."""
    grit, passages = GritLM.bundled(), list(PASSAGES.values())
    first = [grit.rerank(question, passages, top_n=1)[0].index for question in PASSAGES]
    assert sum(index == wanted for wanted, index in enumerate(first)) >= len(PASSAGES) - 1


def test_english_is_likelier_than_its_words_in_disorder(mini: tuple[CausalLM, PromptEncoder]) -> None:
    plain = "The Moon is much smaller than the Earth, and it has no atmosphere of its own."
    shuffled = "own the than atmosphere Moon it and. of no much Earth, has is smaller its The the"
    nats, worse = (response_nats(*mini, [TextRow((text,))]) for text in (plain, shuffled))
    assert nats < worse - 0.5
    assert nats < 6.5
