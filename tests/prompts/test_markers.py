"""Markers of a checkpoint's own: where they stand, and that no text spells them. Random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_variant
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_logits import assert_exact

from grit_integrations import Decoding, GritLM, ModelLoadError
from grit_integrations.options import CACHINGS, Caching
from grit_integrations.prompts.formats import Message

OWN = {"user": "<U>\n", "assistant": "<A>\n", "embed": "<E>\n"}
TEXT = "The heart pumps blood."


@pytest.fixture(scope="module")
def grit(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> GritLM:
    return GritLM(write_variant(tmp_path_factory.mktemp("own") / "own", tiny_path, markers=OWN))


def ids_of(grit: GritLM, text: str) -> list[int]:
    return list(grit.checkpoint.tokenizer.hf(text).input_ids)


def embedded(grit: GritLM, text: str, *, query: bool = True, instruction: str = "") -> list[int]:
    """Return the ids of an embedding prompt, as the block that a prompt has of it."""
    caching: Caching = "query" if query else "doc"
    asked, documents = (text, ["x"]) if query else ("x", [text])
    prompt = grit.prompt(asked, documents, caching=caching, query_instruction=instruction)
    return list(prompt.plan.blocks[0].ids)


def test_prompts_are_one_string_with_these_markers(grit: GritLM) -> None:
    turns = [Message("user", "a"), Message("assistant", "b"), Message("user", "c")]
    assert list(grit.prompt(turns).plan.prompt_ids) == ids_of(grit, "<U>\na\n<A>\nb</s>\n<U>\nc\n<A>\n")
    assert embedded(grit, TEXT) == ids_of(grit, f"<E>\n{TEXT}")
    assert embedded(grit, TEXT, instruction="Find") == ids_of(grit, f"<U>\nFind\n<E>\n{TEXT}")


@settings(deadline=None)
@given(text=st.lists(st.sampled_from(["<U>", "<", "U>", "<A>", "E", "<E>\n", " ", "\n", "x"]), min_size=1).map("".join))
def test_no_text_spells_one(grit: GritLM, text: str) -> None:
    prompt = grit.prompt(f"{text}x", [f"x{text}"]).plan.prompt_ids
    shown = grit.checkpoint.tokenizer.hf.decode(prompt, skip_special_tokens=False)
    assert [shown.count(marker) for marker in ("<U>", "<A>", "<E>")] == [1, 1, 0]


def test_gritlm_s_own_are_text_then(grit: GritLM, tiny: GritLM) -> None:
    assert grit.tokenize("<|user|>") == grit.checkpoint.tokenizer.continued("<|user|>")
    assert tiny.tokenize("<|user|>") != tiny.checkpoint.tokenizer.continued("<|user|>")


def test_vectors_are_those_of_the_same_ids(grit: GritLM, tiny_path: Path, tmp_path: Path) -> None:
    """Of a document that has no marker, as E5's has none; its query has an instruction in words."""
    markers = {"user": "Instruct: ", "embed": "Query: ", "document": ""}
    bare = GritLM(write_variant(tmp_path / "bare", tiny_path, markers=markers, pooling="lasttoken"))
    assert embedded(bare, TEXT, instruction="Find") == ids_of(bare, f"Instruct: Find\nQuery: {TEXT}")
    assert embedded(bare, TEXT) == ids_of(bare, f"Query: {TEXT}")
    assert embedded(bare, TEXT, query=False) == ids_of(bare, TEXT)
    kept = bare.with_options(caching="doc")
    vectors = kept.embed_documents([TEXT])
    assert kept.stored([TEXT]) == [True]
    assert np.allclose(vectors, bare.embed_documents([TEXT, TEXT * 2])[:1], atol=1e-5)
    assert not np.allclose(vectors, bare.embed_queries([TEXT]), atol=1e-3)


@pytest.mark.parametrize("caching", [mode for mode in CACHINGS if mode != "off"])
def test_a_hit_equals_a_miss_in_every_mode(caching: Caching, grit: GritLM, tmp_path: Path) -> None:
    assert_exact(grit, tmp_path, "Which?", [TEXT, "Stars shine by fusion."], caching=caching)


def test_reranking_asks_between_them(grit: GritLM) -> None:
    best, other = grit.rerank("What pumps?", [TEXT, "Stars shine."])
    assert {best.index, other.index} == {0, 1}
    assert grit.generate("Who?", decoding=Decoding(max_new_tokens=2)).token_ids


def test_golden_ids_are_read_with_them(tiny_path: Path, tmp_path: Path, grit: GritLM) -> None:
    golden: dict[str, Any] = {f"<U>\nFind\n<E>\n{TEXT}": ids_of(grit, f"<U>\nFind\n<E>\n{TEXT}")}
    right = write_variant(tmp_path / "right", tiny_path, markers=OWN, golden=golden)
    assert GritLM(right).count_tokens("text")
    wrong = write_variant(tmp_path / "wrong", tiny_path, markers=OWN, golden={"<E>\n": [1, 2, 3]})
    with pytest.raises(ModelLoadError, match="the model was trained with"):
        GritLM(wrong).count_tokens("text")


def test_each_changes_the_fingerprint(tiny_path: Path, tmp_path: Path) -> None:
    configs: list[dict[str, str]] = [{}, *({role: marker} for role, marker in OWN.items()), {"document": "<D>\n"}]
    found = {
        GritLM(write_variant(tmp_path / str(n), tiny_path, markers=own)).fingerprint for n, own in enumerate(configs)
    }
    assert len(found) == 5
