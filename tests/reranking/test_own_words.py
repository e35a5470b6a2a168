"""Verdicts that a checkpoint asks for in words of its own, against stock transformers on one string. Random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import write_variant
from passages import PASSAGES as PADDED
from passages import QUERY, logits
from transformers import AutoModelForCausalLM

from grit_integrations import GritLM, KVCacheStore, ModelLoadError
from grit_integrations.options import Caching, Order

PASSAGES = [passage.strip() for passage in PADDED]  # one string joins a last space with what stands behind it
QUERY_FIRST = "Query: {query}\nDocument: {passage}\n\nIs the document good?"
PASSAGE_FIRST = "{passage}\n\nQuery: {query}\nIs the document good?"
WORDS: dict[str, Any] = {"reranking_answer": "It is", "reranking_words": [" good", " bad"]}


@pytest.fixture(scope="module")
def stock(tiny_path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_path, sliding_window=None).eval()


def model(folder: Path, base: Path, **keys: Any) -> GritLM:
    return GritLM.from_pretrained(write_variant(folder / "model", base, **keys))


def wanted(stock: Any, grit: GritLM, prompt: str, answer: str, words: list[str]) -> list[list[float]]:
    """Return the logits of both words behind each passage's prompt, which is one string."""
    hf, found = grit.checkpoint.tokenizer.hf, []
    places = [hf(f"{answer}{word}").input_ids[-1] for word in words]
    for passage in PASSAGES:
        text = f"<|user|>\n{prompt.format(query=QUERY, passage=passage)}\n<|assistant|>\n{answer}"
        with torch.inference_mode():
            last = stock(torch.tensor([hf(text).input_ids]), logits_to_keep=1).logits[0, -1]
        found.append(last[places].tolist())
    return found


@pytest.mark.parametrize("prompt", [QUERY_FIRST, PASSAGE_FIRST, "{query}\n{passage}", "Of {passage}\nsay {query} now!"])
def test_scores_are_the_model_s_own_words_of_one_string(
    prompt: str, tiny_path: Path, stock: Any, tmp_path: Path
) -> None:
    grit = model(tmp_path, tiny_path, reranking_prompt=prompt, **WORDS)
    pairs = torch.tensor(wanted(stock, grit, prompt, "It is", [" good", " bad"]))
    found = {each.index: each.score for each in grit.rerank(QUERY, PASSAGES, score="logit")}
    assert [found[index] for index in range(len(PASSAGES))] == pytest.approx(pairs[:, 0].tolist(), abs=1e-4)
    shares = {each.index: each.score for each in grit.rerank(QUERY, PASSAGES)}
    assert [shares[index] for index in range(len(PASSAGES))] == pytest.approx(pairs.softmax(1)[:, 0].tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("keys", "order"),
    [
        ({"reranking_prompt": QUERY_FIRST}, "query-first"),
        ({"reranking_prompt": PASSAGE_FIRST}, "passage-first"),
        ({"reranking_prompt": PASSAGE_FIRST, "reranking_order": "passage-block"}, "passage-block"),
    ],
)
@pytest.mark.parametrize("caching", ["prefix", "doc"])
def test_a_hit_gives_the_bits_of_a_miss(
    keys: dict[str, Any], order: Order, caching: Caching, tiny_path: Path, tmp_path: Path
) -> None:
    grit = model(tmp_path, tiny_path, **keys, **WORDS)
    off = logits(grit.with_options(caching="off"), QUERY, PASSAGES, order)
    assert [
        each.score for each in sorted(grit.rerank(QUERY, PASSAGES, score="logit"), key=lambda each: each.index)
    ] == off
    with KVCacheStore(None) as store:
        kept = grit.with_options(caching=caching, kv_store=store)
        assert logits(kept, QUERY, PASSAGES, order) == off
        hits = store.stats().hits_ram
        assert logits(kept, QUERY, PASSAGES, order) == off
        assert store.stats().hits_ram > hits
        if (order, caching) in (("passage-first", "prefix"), ("passage-block", "doc")):
            assert kept.stored(PASSAGES) == [True] * len(PASSAGES)  # answers start from the same blocks


def test_another_order_takes_the_reference_s_prompt(tiny_path: Path, tmp_path: Path) -> None:
    plain = model(tmp_path / "plain", tiny_path, **WORDS)
    own = model(tmp_path / "own", tiny_path, reranking_prompt=QUERY_FIRST, **WORDS)
    for order in ("passage-first", "passage-block"):
        assert logits(own, QUERY, PASSAGES, order) == logits(plain, QUERY, PASSAGES, order)
    assert logits(own, QUERY, PASSAGES, "query-first") != logits(plain, QUERY, PASSAGES, "query-first")


def test_nothing_need_be_put_into_the_assistant_s_mouth(tiny_path: Path, stock: Any, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"reranking_prompt": QUERY_FIRST, "reranking_answer": "", "reranking_words": ["good", "bad"]}
    grit = model(tmp_path, tiny_path, **keys)
    tokenizer = grit.checkpoint.tokenizer
    ids = [tokenizer.encode_texts([word])[0] for word in ("good", "bad")]
    assert all(len(each) == 1 for each in ids) and ids != [tokenizer.encode_texts([" good"])[0]]
    text = f"<|user|>\n{QUERY_FIRST.format(query=QUERY, passage=PASSAGES[0])}\n<|assistant|>\n"
    with torch.inference_mode():
        last = stock(torch.tensor([tokenizer.hf(text).input_ids]), logits_to_keep=1).logits[0, -1]
    (found,) = grit.rerank(QUERY, PASSAGES[:1], score="logit")
    assert found.score == pytest.approx(float(last[ids[0][0]]), abs=1e-4)


def test_texts_cannot_fill_in_for_each_other(tiny_path: Path, tmp_path: Path) -> None:
    grit = model(tmp_path, tiny_path, reranking_prompt=QUERY_FIRST, **WORDS)
    plain = logits(grit, "{passage}", ["{query}", "{query} {passage}"], "query-first")
    other = logits(grit, "{passage}", ["{query}", QUERY], "query-first")
    assert plain[0] == pytest.approx(other[0], abs=1e-5)
    assert plain[1] != pytest.approx(other[1], abs=1e-3)


def test_words_that_are_no_tokens_are_refused_before_anything_is_loaded(tiny_path: Path, tmp_path: Path) -> None:
    path = write_variant(tmp_path / "model", tiny_path, reranking_words=[" yes", " extraordinarily"])
    with pytest.raises(ModelLoadError, match=r"reranking_words=.*spells ' extraordinarily' with \d tokens"):
        GritLM(path).count_tokens("text")


def test_each_key_changes_the_fingerprint(tiny_path: Path, tmp_path: Path) -> None:
    configs: list[dict[str, Any]] = [{}, {"reranking_prompt": QUERY_FIRST}, *({key: WORDS[key]} for key in WORDS)]
    found = {GritLM(write_variant(tmp_path / str(n), tiny_path, **keys)).fingerprint for n, keys in enumerate(configs)}
    assert len(found) == 4
