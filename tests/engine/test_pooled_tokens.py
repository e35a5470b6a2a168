"""Vectors that are the state at a token, against stock transformers and beside the KV cache. Random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import add_special_tokens, write_checkpoint, write_variant
from transformers import AutoModelForCausalLM

from grit_integrations import ContextOverflowError, Decoding, GritLM, KVCacheStore, ModelLoadError, OptionError
from grit_integrations.chroma import GritEmbeddingFunction
from grit_integrations.results import Vectors

TEXTS = ["Stars shine.", "The heart pumps blood through the body.", "A mill grinds wheat by the river."]
BEHIND, FRONT = "<|vector|>", "<|embed|>"
WINDOW = 160


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose tokenizer has both tokens."""
    path = tmp_path_factory.mktemp("base") / "base"
    write_checkpoint(path, vocab_size=32008, max_position_embeddings=WINDOW)
    add_special_tokens(path, BEHIND, FRONT)
    return path


@pytest.fixture(scope="module")
def stock(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, sliding_window=None).eval()


def model(folder: Path, base: Path, **keys: Any) -> GritLM:
    return GritLM.from_pretrained(write_variant(folder / "model", base, **keys))


def states(stock: Any, grit: GritLM, text: str, *behind: str) -> Vectors:
    """Return the stock model's states of a prompt, (tokens, dim), read bidirectionally."""
    hf = grit.checkpoint.tokenizer.hf
    ids = hf(f"{FRONT}\n{text}{''.join(behind)}").input_ids
    with torch.inference_mode():
        found: Vectors = stock.model(torch.tensor([ids]), is_causal=False)[0][0].numpy()
    return found


def unit(vector: Vectors) -> Vectors:
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize(
    ("keys", "behind", "place"),
    [
        ({"pooling": f"token:{BEHIND}"}, [BEHIND], -1),
        ({"pooling": f"token:{BEHIND}", "append_eos": True}, ["</s>", BEHIND], -1),
        ({"pooling": f"token:{FRONT}"}, [], 1),
        ({"pooling": f"token:{FRONT}", "append_eos": True}, ["</s>"], 1),
        ({"pooling": "lasttoken", "append_eos": True}, ["</s>"], -1),
    ],
)
def test_the_vector_is_the_state_at_the_token(
    keys: dict[str, Any], behind: list[str], place: int, base: Path, stock: Any, tmp_path: Path
) -> None:
    grit = model(tmp_path, base, **keys)
    wanted = [unit(states(stock, grit, text, *behind)[place]) for text in TEXTS]
    np.testing.assert_allclose(grit.embed_documents(TEXTS), wanted, atol=1e-5, rtol=0)
    np.testing.assert_allclose(grit.embed_documents(TEXTS[:1]), wanted[:1], atol=1e-5, rtol=0)


def test_a_mean_has_eos_in_it_as_the_reference_has(base: Path, stock: Any, tmp_path: Path) -> None:
    grit = model(tmp_path, base, append_eos=True)
    header = len(grit.checkpoint.tokenizer.hf(f"{FRONT}\n").input_ids)
    wanted = [unit(states(stock, grit, text, "</s>")[header:].mean(axis=0)) for text in TEXTS]
    np.testing.assert_allclose(grit.embed_documents(TEXTS), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("token", [BEHIND, FRONT])
def test_a_text_cannot_move_the_place(token: str, base: Path, stock: Any, tmp_path: Path) -> None:
    grit = model(tmp_path, base, pooling=f"token:{token}")
    spelled = f"Say {BEHIND} and {FRONT} now."
    ids = grit.tokenize(spelled)
    assert not {grit.checkpoint.tokenizer.mark_id, *grit.checkpoint.tokenizer.control_ids} & set(ids)
    neutral = grit.checkpoint.tokenizer.neutralised(spelled)
    assert neutral != spelled
    np.testing.assert_array_equal(grit.embed_documents([spelled]), grit.embed_documents([neutral]))


@pytest.mark.parametrize("keys", [{"pooling": f"token:{BEHIND}"}, {"append_eos": True}, {"pooling": f"token:{FRONT}"}])
def test_the_block_of_an_embedding_pass_is_that_of_an_answer(keys: dict[str, Any], base: Path, tmp_path: Path) -> None:
    grit = model(tmp_path, base, **keys)
    kept, fresh = (grit.with_options(caching="doc", kv_store=KVCacheStore(None, ram_bytes="50MB")) for _ in range(2))
    vectors = kept.embed_documents(TEXTS)
    np.testing.assert_allclose(vectors, grit.embed_documents(TEXTS), atol=1e-5)
    assert kept.stored(TEXTS) == [True] * 3
    decoding = Decoding(max_new_tokens=6, logprobs=3)
    hit, miss = (each.generate("Which?", TEXTS, decoding=decoding) for each in (kept, fresh))
    assert hit.cache.hits == 3 > miss.cache.hits
    assert (hit.token_ids, hit.logprobs) == (miss.token_ids, miss.logprobs)


def test_the_window_holds_what_stands_behind_a_text(base: Path, tmp_path: Path) -> None:
    grit = model(tmp_path, base, pooling=f"token:{BEHIND}", append_eos=True)
    room = WINDOW - len(grit.checkpoint.tokenizer.hf(f"{FRONT}\n").input_ids) - 2
    text = grit.checkpoint.tokenizer.first_tokens("wheat " * WINDOW, room)
    assert grit.count_tokens(text) == room
    whole = grit.embed_documents([text])
    with pytest.raises(ContextOverflowError, match=f"{room} fit into the model's window"):
        grit.embed_documents([text + " wheat"])
    np.testing.assert_allclose(grit.embed_documents([text + " wheat"], truncate=True), whole, atol=1e-6)


def test_a_token_that_the_tokenizer_lacks_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"pooling='token:<\|other\|>' .* no token of this tokenizer"):
        model(tmp_path, base, pooling="token:<|other|>")


def test_callers_may_pool_otherwise_but_not_at_a_token_that_was_not_trained(base: Path, tmp_path: Path) -> None:
    grit = model(tmp_path, base, pooling=f"token:{BEHIND}")
    assert grit.with_options(pooling=f"token:{BEHIND}").pooling == grit.pooling == f"token:{BEHIND}"
    assert not np.allclose(grit.embed_queries(TEXTS), grit.with_options(pooling="mean").embed_queries(TEXTS), atol=1e-2)
    for wrong in (grit.with_options(pooling=f"token:{FRONT}"), GritLM(base, pooling=f"token:{BEHIND}")):
        with pytest.raises(OptionError, match="was not trained to put a text's vector there"):
            wrong.embed_queries(TEXTS)


def test_a_collection_remembers_the_token(base: Path, tmp_path: Path) -> None:
    function = GritEmbeddingFunction(model(tmp_path, base, pooling=f"token:{BEHIND}"))
    again = GritEmbeddingFunction.build_from_config(function.get_config())
    np.testing.assert_allclose(again(TEXTS), function(TEXTS), atol=1e-6)


def test_each_key_changes_the_fingerprint(base: Path, tmp_path: Path) -> None:
    configs: list[dict[str, Any]] = [{}, {"append_eos": True}, {"pooling": f"token:{BEHIND}"}]
    found = {GritLM(write_variant(tmp_path / str(n), base, **keys)).fingerprint for n, keys in enumerate(configs)}
    assert len(found) == 3
