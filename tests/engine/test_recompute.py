"""Documents of which some is read again in its place: to the bit the same on a hit, and what the definition says.

Random weights: mechanics, not meaning.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import write_checkpoint
from dense import dense_logits
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_logits import ask, assert_same

from grit_integrations import Decoding, DocBlocks, GritLM, KVCacheStore, OptionError
from grit_integrations.doc_blocks import PLAIN, BlockPattern
from grit_integrations.prompts.formats import Message, Messages

CASES = int(os.environ.get("GRIT_EXACT_CASES", "300"))
PATTERNS: tuple[BlockPattern, ...] = ("bidirectional", "causal")
ONE = Decoding(max_new_tokens=1)
HEART = "The heart pumps blood through the vessels of the body, over and over."
STARS = "Distant stars burn hydrogen for billions of years, and then they swell."
SNOW = "Snow is cold, and it is white."
EVERYTHING = (
    *(DocBlocks(pattern=pattern, recompute_share=1) for pattern in PATTERNS),
    *(DocBlocks(pattern=pattern, recompute_first=10_000) for pattern in PATTERNS),
)

texts = st.sampled_from([HEART, STARS, SNOW, "über 你好 <|user|> 12.5 </s>", "x", f"{HEART}\n\n{STARS}"])
conversations: st.SearchStrategy[Messages] = st.one_of(
    texts,
    st.tuples(texts, texts, texts).map(
        lambda said: [Message("user", said[0]), Message("assistant", said[1]), Message("user", said[2])]
    ),
    st.tuples(texts, texts).map(lambda said: [Message("assistant", said[0]), Message("user", said[1])]),
)
doc_blocks = st.one_of(
    st.builds(DocBlocks, pattern=st.sampled_from(PATTERNS), recompute_first=st.integers(0, 40)),
    st.builds(DocBlocks, pattern=st.sampled_from(PATTERNS), recompute_share=st.floats(0, 1)),
)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def grit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GritLM:
    path = write_checkpoint(tmp_path_factory.mktemp(request.param) / "model", seed=5, layers=3)
    return GritLM.from_pretrained(path, dtype=request.param, device="cpu", caching="doc")


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> GritLM:
    path = write_checkpoint(tmp_path_factory.mktemp("exact") / "model", seed=5, layers=3)
    return GritLM.from_pretrained(path, device="cpu", caching="doc")


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return float((one - other).abs().max()) < 1e-4 * max(1.0, float(other.abs().max()))


def first_logits(grit: GritLM, *args: Any, **options: Any) -> torch.Tensor:
    """The logits behind the prompt, computed from nothing, (vocab,)."""
    return ask(grit, KVCacheStore(None), *args, decoding=ONE, **options)[1][0][0]


# A hit changes nothing


@settings(max_examples=CASES // 6, deadline=None)  # for each of two precisions
@given(
    messages=conversations,
    documents=st.lists(texts, max_size=4),
    blocks=doc_blocks,
    precision=st.sampled_from(["native", "native", "int8"]),
)
def test_a_hit_equals_a_miss_to_the_bit_from_memory_and_from_disk(
    grit: GritLM,
    tmp_path_factory: pytest.TempPathFactory,
    messages: Messages,
    documents: list[str],
    blocks: DocBlocks,
    precision: Any,
) -> None:
    path, model = tmp_path_factory.mktemp("kv"), grit.with_options(doc_blocks=blocks)
    three = Decoding(max_new_tokens=3)
    with KVCacheStore(path, precision=precision) as store:
        miss = ask(model, store, messages, documents, decoding=three)
        from_memory = ask(model, store, messages, documents, decoding=three)
    with KVCacheStore(path, precision=precision, ram_bytes=0) as store:
        from_disk = ask(model, store, messages, documents, decoding=three)
    for hit in (from_memory, from_disk):
        assert_same(hit, miss)
    assert from_memory[0].cache.misses == 0


@settings(max_examples=CASES // 12, deadline=None)
@given(
    first=st.lists(texts, min_size=1, max_size=3),
    second=st.lists(texts, min_size=1, max_size=3),
    blocks=doc_blocks,
    other=doc_blocks,
)
def test_what_other_prompts_and_settings_left_changes_nothing(
    grit: GritLM, first: list[str], second: list[str], blocks: DocBlocks, other: DocBlocks
) -> None:
    """Documents in other orders and companies, some hits and some misses, and blocks of another setting."""
    store, mine = KVCacheStore(None), grit.with_options(doc_blocks=blocks)
    ask(grit.with_options(doc_blocks=other), store, "What burns?", second, decoding=ONE)
    ask(mine, store, "What burns?", first, decoding=ONE)
    mixed = ask(mine, store, "What burns?", second, decoding=ONE)
    assert_same(mixed, ask(mine, KVCacheStore(None), "What burns?", second, decoding=ONE))


@given(blocks=doc_blocks, other=doc_blocks)
@settings(max_examples=CASES // 12, deadline=None)
def test_no_setting_finds_a_block_of_another(grit: GritLM, blocks: DocBlocks, other: DocBlocks) -> None:
    store = KVCacheStore(None)
    model, stranger = (grit.with_options(doc_blocks=each, kv_store=store) for each in (blocks, other))
    model.cache_documents([HEART], progress=False)
    assert model.stored([HEART]) == [True]
    assert stranger.stored([HEART]) == [blocks == other]
    report = stranger.generate("What?", [HEART, STARS], decoding=ONE).cache
    assert report.hits == (blocks == other)


@pytest.mark.parametrize("blocks", [DocBlocks(recompute_first=4), DocBlocks(recompute_share=0.3)])
def test_blocks_of_the_embedding_pass_are_hits(grit: GritLM, blocks: DocBlocks) -> None:
    model = grit.with_options(doc_blocks=blocks)
    miss = ask(model, KVCacheStore(None), "What burns?", [HEART, STARS], decoding=ONE)
    store = KVCacheStore(None)
    model.with_options(kv_store=store).embed_documents([STARS, HEART])
    hit = ask(model, store, "What burns?", [HEART, STARS], decoding=ONE)
    assert hit[0].cache.hits == 2
    assert_same(hit, miss)


def test_causal_blocks_are_kept_by_caching_documents_and_not_by_embedding_them(grit: GritLM) -> None:
    model = grit.with_options(doc_blocks=DocBlocks(pattern="causal"), kv_store=KVCacheStore(None))
    model.embed_documents([HEART])
    assert model.stored([HEART]) == [False]
    assert model.cache_documents([HEART, STARS], progress=False).misses == 2
    for documents in ([HEART, STARS], [STARS, HEART], [SNOW, STARS]):  # a block serves any place
        report = model.generate("What burns?", documents, decoding=ONE).cache
        assert report.hits == sum(text != SNOW for text in documents)


# What is read


@settings(max_examples=60, deadline=None)
@given(
    messages=conversations,
    documents=st.lists(texts, max_size=3),
    first=st.integers(0, 30),
    pattern=st.sampled_from(PATTERNS),
)
def test_the_first_tokens_are_read_again_behind_everything_before_them(
    exact: GritLM, messages: Messages, documents: list[str], first: int, pattern: BlockPattern
) -> None:
    model = exact.with_options(doc_blocks=DocBlocks(pattern=pattern, recompute_first=first))
    plan = model.prompt(messages, documents).plan
    again = {
        index: range(min(first, len(block.placed)))
        for index, block in enumerate(plan.blocks)
        if block.by_itself and index
    }
    assert close(first_logits(model, messages, documents), dense_logits(model.lm, plan, again))


@settings(max_examples=40, deadline=None)
@given(
    documents=st.lists(texts, min_size=2, max_size=2), share=st.floats(0.01, 0.99), pattern=st.sampled_from(PATTERNS)
)
def test_the_tokens_whose_values_change_most_are_read_again(
    exact: GritLM, documents: list[str], share: float, pattern: BlockPattern
) -> None:
    model = exact.with_options(doc_blocks=DocBlocks(pattern=pattern, recompute_share=share))
    plan = model.prompt("What burns?", documents).plan
    second = len(plan.blocks) - 1
    chosen = most_changed(model, plan, model.settings.doc_blocks.recomputed(len(plan.blocks[second].placed)))
    assert close(first_logits(model, "What burns?", documents), dense_logits(model.lm, plan, {second: chosen}))


def most_changed(model: GritLM, plan: Any, count: int) -> Sequence[int]:
    """Places in a plan's second block whose values in the second layer differ most with the first block before it."""
    block = plan.blocks[1]
    values: list[torch.Tensor] = []
    layer: Any = model.lm.get_decoder().layers[1].self_attn.v_proj
    hook = layer.register_forward_hook(lambda _, __, output: values.append(output[0].float().clone()))
    try:
        for again in ({}, {1: range(len(block.placed))}):
            dense_logits(model.lm, plan, again)
    finally:
        hook.remove()
    start = len(plan.blocks[0].ids)
    alone = values[0][start : start + len(block.ids)][block.drop :]
    fresh = values[1][start + len(block.ids) : start + len(block.ids) + len(block.placed)]
    changes = (fresh - alone).square().sum(dim=1)
    return sorted(changes.topk(count).indices.tolist())


@settings(max_examples=60, deadline=None)
@given(messages=conversations, documents=st.lists(texts, max_size=4), blocks=st.sampled_from(EVERYTHING))
def test_reading_everything_again_is_one_pass_in_which_documents_see_those_before_them(
    exact: GritLM, messages: Messages, documents: list[str], blocks: DocBlocks
) -> None:
    model = exact.with_options(doc_blocks=blocks)
    plan = model.prompt(messages, documents).plan
    found = first_logits(model, messages, documents)
    assert close(found, one_pass(model, plan))
    if blocks.pattern == "causal":
        assert close(found, first_logits(model, messages, documents, caching="off"))


def one_pass(model: GritLM, plan: Any) -> torch.Tensor:
    """The prompt as it stands, causally, but that the tokens of a bidirectional block see all of it."""
    ids = plan.prompt_ids
    seen = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
    start = 0
    for block in plan.blocks:
        end = start + len(block.placed)
        seen[start:end, start:end] |= block.pattern == "bidirectional"
        start = end
    with torch.inference_mode():
        output = model.lm(input_ids=torch.tensor([ids]), attention_mask=seen[None, None], use_cache=False)
    return output.logits[0, -1].float()


@settings(max_examples=60, deadline=None)
@given(messages=conversations, documents=st.lists(texts, max_size=3), known=st.lists(texts, max_size=2))
def test_causal_blocks_stand_in_the_prompt_of_off(
    exact: GritLM, messages: Messages, documents: list[str], known: list[str]
) -> None:
    model = exact.with_options(doc_blocks=DocBlocks(pattern="causal", recompute_first=3))
    plans = [
        model.prompt(messages, documents, caching=mode, known_documents=known).plan for mode in ("doc", "off", "prefix")
    ]
    assert len({plan.prompt_ids for plan in plans}) == 1


def test_one_causal_document_is_read_as_without_caching(exact: GritLM) -> None:
    model = exact.with_options(doc_blocks=DocBlocks(pattern="causal"))
    assert close(
        first_logits(model, "What pumps?", [HEART]), first_logits(model, "What pumps?", [HEART], caching="off")
    )
    two = [first_logits(model, "What pumps?", [HEART, STARS], caching=mode) for mode in ("doc", "off")]
    assert not close(*two), "the second document knows nothing of the first"


def test_a_document_in_a_message_is_read_again_behind_the_words_before_it(exact: GritLM) -> None:
    long = f"{HEART} " * 3
    message = f"Context:\n{long}\n\nQuestion: What pumps blood?"
    model = exact.with_options(doc_blocks=DocBlocks(recompute_first=5))
    plan = model.prompt(message, known_documents=[long]).plan
    assert [block.pattern for block in plan.blocks] == ["causal", "bidirectional"]
    found = first_logits(model, message, known_documents=[long])
    assert close(found, dense_logits(model.lm, plan, {1: range(5)}))
    assert not close(found, dense_logits(model.lm, plan))


def test_a_model_of_one_layer_has_nothing_that_could_deviate(tmp_path: Any) -> None:
    path = write_checkpoint(tmp_path / "model", layers=1)
    plain = GritLM.from_pretrained(path, device="cpu", caching="doc")
    some = plain.with_options(doc_blocks=DocBlocks(recompute_share=0.5))
    assert close(first_logits(some, "What?", [HEART, STARS]), first_logits(plain, "What?", [HEART, STARS]))


@pytest.mark.parametrize("blocks", [PLAIN, DocBlocks(recompute_first=4), DocBlocks(pattern="causal")])
def test_a_model_that_embeds_causally_has_either_block(tmp_path: Path, blocks: DocBlocks) -> None:
    """The pattern 'bidirectional' is what it embeds; only that is a hit of what `embed_documents` keeps."""
    path = write_checkpoint(tmp_path / "model", layers=3)
    (path / "grit_config.json").write_text(json.dumps({"attention": "cccc"}))
    model = GritLM.from_pretrained(path, device="cpu", caching="doc", doc_blocks=blocks)
    plan = model.prompt("What burns?", [HEART, STARS]).plan
    assert [block.pattern for block in plan.blocks if block.by_itself] == ["alone", "alone"]
    miss = ask(model, KVCacheStore(None), "What burns?", [HEART, STARS], decoding=ONE)
    assert close(miss[1][0][0], dense_logits(model.lm, plan, {1: range(blocks.recompute_first)}))
    store = KVCacheStore(None)
    model.with_options(kv_store=store).embed_documents([STARS, HEART])
    hit = ask(model, store, "What burns?", [HEART, STARS], decoding=ONE)
    assert hit[0].cache.hits == (0 if blocks.pattern == "causal" else 2)
    assert_same(hit, miss)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mixtral"])
def test_every_family_reads_tokens_again(tmp_path: Any, kind: str) -> None:
    path = write_checkpoint(tmp_path / "model", kind, layers=3)
    model = GritLM.from_pretrained(path, device="cpu", caching="doc")
    for blocks in (EVERYTHING[1], DocBlocks(pattern="causal", recompute_share=0.999)):
        causal = model.with_options(doc_blocks=blocks)
        off = first_logits(causal, "What burns?", [HEART, STARS], caching="off")
        assert close(first_logits(causal, "What burns?", [HEART, STARS]), off)


# What is counted, and refused


def test_tokens_that_were_read_again_were_not_read_from_the_cache(grit: GritLM) -> None:
    usages = []
    for blocks in (PLAIN, DocBlocks(recompute_first=7)):
        model = grit.with_options(doc_blocks=blocks, kv_store=KVCacheStore(None))
        model.cache_documents([HEART, STARS, SNOW], progress=False)
        usages.append(model.generate("What burns?", [HEART, STARS, SNOW], decoding=ONE).usage)
    assert usages[0].cache_read_tokens - usages[1].cache_read_tokens == 2 * 7
    assert usages[0].prompt_tokens == usages[1].prompt_tokens


def test_the_other_modes_have_no_such_setting(exact: GritLM) -> None:
    for mode in ("off", "prefix", "query", "query-doc", "doc-query"):
        plain, other = (
            exact.with_options(doc_blocks=blocks).prompt("What?", [HEART, STARS], caching=mode).plan
            for blocks in (PLAIN, EVERYTHING[1])
        )
        assert plain == other


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"pattern": "both"}, "pattern='both' is not possible. It must be 'bidirectional' or 'causal'"),
        ({"recompute_first": -1}, "recompute_first=-1 is not possible"),
        ({"recompute_first": True}, "recompute_first=True is not possible"),
        ({"recompute_share": 1.5}, "recompute_share=1.5 is not possible. It must be a number from 0 "),
        ({"recompute_share": float("nan")}, "recompute_share=nan is not possible"),
        ({"recompute_first": 4, "recompute_share": 0.5}, "two ways to choose what is read again. Give one of them"),
        ({"recompute_frist": 4}, "Did you mean 'recompute_first'"),
    ],
)
def test_bad_settings_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as caught:
        GritLM("grit-mini", doc_blocks=wrong)
    assert words in str(caught.value)


def test_what_is_no_setting_is_refused(exact: GritLM) -> None:
    with pytest.raises(OptionError, match="Give a DocBlocks"):
        exact.with_options(doc_blocks=16)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="Give a DocBlocks"):
        GritLM("grit-mini", doc_blocks="causal")  # type: ignore[arg-type]


def test_a_kernel_without_masks_is_refused_before_any_work(exact: GritLM, monkeypatch: pytest.MonkeyPatch) -> None:
    model = exact.with_options(doc_blocks=DocBlocks(recompute_first=4))
    monkeypatch.setattr(model.lm.config, "_attn_implementation", "flash_attention_2")
    with pytest.raises(OptionError, match="takes no mask"):
        model.generate("What?", [HEART, STARS], decoding=ONE)
    assert model.with_options(doc_blocks=PLAIN).prompt("What?", [HEART, STARS])
