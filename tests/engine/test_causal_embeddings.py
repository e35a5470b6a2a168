"""Models that embed causally (`cccc`): vectors and blocks of documents against stock transformers. Random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import write_checkpoint, write_variant
from recorded_logits import assert_exact
from transformers import AutoModelForCausalLM

from grit_integrations import GritLM, KVCacheStore
from grit_integrations.options import CACHINGS, Caching
from grit_integrations.prompts.formats import Message, Messages
from grit_integrations.results import Vectors

TEXTS = ["Stars shine.", "The heart pumps blood through the body.", "A mill grinds wheat by the river that runs."]
CONVERSATION: Messages = [Message("user", "Who?"), Message("assistant", "Them."), Message("user", "Which of both?")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("base") / "base", seed=4)


@pytest.fixture(scope="module")
def stock(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, sliding_window=None).eval()


@pytest.fixture(scope="module")
def grit(base: Path, tmp_path_factory: pytest.TempPathFactory) -> GritLM:
    return GritLM.from_pretrained(write_variant(tmp_path_factory.mktemp("causal") / "causal", base, attention="cccc"))


def states(stock: Any, grit: GritLM, text: str) -> Vectors:
    """Return the stock model's own states of a text behind the marker, (tokens, dim)."""
    hf = grit.checkpoint.tokenizer.hf
    header, ids = (hf(shown).input_ids for shown in ("<|embed|>\n", f"<|embed|>\n{text}"))
    with torch.inference_mode():
        found: Vectors = stock.model(torch.tensor([ids]))[0][0, len(header) :].numpy()
    return found


@pytest.mark.parametrize("pooling", ["mean", "lasttoken"])
def test_vectors_are_those_of_stock_causal_states(pooling: str, stock: Any, grit: GritLM) -> None:
    found = [states(stock, grit, text) for text in TEXTS]
    pooled = [each.mean(axis=0) if pooling == "mean" else each[-1] for each in found]
    wanted = np.array([vector / np.linalg.norm(vector) for vector in pooled])
    ours = grit.with_options(pooling=pooling)
    np.testing.assert_allclose(ours.embed_documents(TEXTS), wanted, atol=1e-5, rtol=0)  # together, so padded
    np.testing.assert_allclose(ours.embed_documents(TEXTS[:1]), wanted[:1], atol=1e-5, rtol=0)


def test_a_text_s_states_do_not_know_its_end(grit: GritLM, base: Path) -> None:
    first = [model.with_options(pooling="cls").embed_queries(TEXTS[:2]) for model in (grit, GritLM(base))]
    np.testing.assert_allclose(*first[0], atol=1e-6)  # the first token's states, which know of nothing behind it
    assert not np.allclose(*first[1], atol=1e-3)


@pytest.mark.parametrize("caching", [mode for mode in CACHINGS if mode != "off"])
def test_a_hit_equals_a_miss_in_every_mode(caching: Caching, grit: GritLM, tmp_path: Path) -> None:
    assert_exact(grit, tmp_path / "one", "Which?", TEXTS, caching=caching)
    assert_exact(grit, tmp_path / "two", CONVERSATION, TEXTS[1:], caching=caching)


def test_the_block_of_an_embedding_pass_is_that_of_an_answer(grit: GritLM) -> None:
    kept = grit.with_options(caching="doc", kv_store=KVCacheStore(None))
    kept.embed_documents(TEXTS)
    assert kept.stored(TEXTS) == [True] * 3
    plan = kept.prompt("Which?", TEXTS).plan
    assert [block.pattern for block in plan.blocks] == ["alone"] * 3
    assert kept.generate("Which?", TEXTS).cache.misses == 0


def test_attention_is_part_of_the_fingerprint(grit: GritLM, base: Path) -> None:
    assert grit.fingerprint != GritLM(base).fingerprint
