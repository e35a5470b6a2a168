"""The first promise: a cache hit never changes an answer. Equality of bits in every mode, on random weights."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import write_checkpoint
from dense import dense_logits
from gritlm_package import load_reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded_logits import ask, assert_same

from grit_integrations import Decoding, GritLM, KVCacheStore
from grit_integrations.options import CACHINGS, Caching
from grit_integrations.prompts.formats import Message, Messages, merge_turns
from grit_integrations.prompts.layout import lay_out
from grit_integrations.prompts.plan import plan_prompt

CASES = int(os.environ.get("GRIT_EXACT_CASES", "300"))
MODES: tuple[Caching, ...] = tuple(mode for mode in CACHINGS if mode != "off")
WORDS = ["the", "heart", "pumps", "blood", "distant", "stars", "burn", "über", "你好", "<|user|>", "</s>", "12.5", "\n"]

texts = st.builds(
    lambda seed, count: " ".join(random.Random(seed).choices(WORDS, k=count)) + " end",
    st.integers(0, 40),  # few, so that prompts share documents
    st.integers(1, 60),
)
conversations: st.SearchStrategy[Messages] = st.one_of(
    texts,
    st.tuples(texts, texts, texts).map(
        lambda said: [Message("user", said[0]), Message("assistant", said[1]), Message("user", said[2])]
    ),
)
decodings = st.one_of(
    st.just(Decoding(max_new_tokens=3)),
    st.builds(lambda seed: Decoding(max_new_tokens=3, temperature=0.8, top_k=50, seed=seed), st.integers(0, 99)),
)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def grit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GritLM:
    path = write_checkpoint(tmp_path_factory.mktemp(request.param) / "model", seed=5, layers=3)
    return GritLM.from_pretrained(path, dtype=request.param, device="cpu")


@settings(
    max_examples=CASES // 2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # for each of two precisions
@given(
    messages=conversations,
    documents=st.lists(texts, max_size=4),
    mode=st.sampled_from(MODES),
    decoding=decodings,
    precision=st.sampled_from(["native", "native", "native", "int8"]),
)
def test_a_hit_equals_a_miss_to_the_bit_from_memory_and_from_disk(
    grit: GritLM,
    tmp_path_factory: pytest.TempPathFactory,
    messages: Messages,
    documents: list[str],
    mode: Caching,
    decoding: Decoding,
    precision: Any,
) -> None:
    path = tmp_path_factory.mktemp("kv")
    options: dict[str, Any] = {"decoding": decoding, "caching": mode}
    with KVCacheStore(path, precision=precision) as store:
        miss = ask(grit, store, messages, documents, **options)
        from_memory = ask(grit, store, messages, documents, **options)
    with KVCacheStore(path, precision=precision, ram_bytes=0) as store:
        from_disk = ask(grit, store, messages, documents, **options)
    again = ask(grit, KVCacheStore(None, precision=precision), messages, documents, **options)
    for hit in (from_memory, from_disk, again):
        assert_same(hit, miss)
    assert from_memory[0].cache.hits >= miss[0].cache.hits
    assert from_memory[0].cache.misses == 0
    if mode == "prefix" and precision == "native":
        assert_same(miss, ask(grit, None, messages, documents, decoding=decoding, caching="off"))


@settings(max_examples=CASES // 6, deadline=None)
@given(
    first=st.lists(texts, min_size=1, max_size=4),
    second=st.lists(texts, min_size=1, max_size=4),
    mode=st.sampled_from(MODES),
)
def test_what_other_prompts_left_changes_nothing(
    grit: GritLM, first: list[str], second: list[str], mode: Caching
) -> None:
    """Documents in other orders and companies: some blocks hit, some miss."""
    store = KVCacheStore(None)
    decoding = Decoding(max_new_tokens=2)
    ask(grit, store, "What burns?", first, decoding=decoding, caching=mode)
    mixed = ask(grit, store, "What burns?", second, decoding=decoding, caching=mode)
    assert_same(mixed, ask(grit, KVCacheStore(None), "What burns?", second, decoding=decoding, caching=mode))


@settings(max_examples=60, deadline=None)
@given(messages=conversations, documents=st.lists(texts, max_size=4), mode=st.sampled_from(CACHINGS))
def test_every_mode_equals_one_dense_masked_pass(
    tiny: GritLM, messages: Messages, documents: list[str], mode: Caching
) -> None:
    plan = tiny.prompt(messages, documents, caching=mode).plan
    _, logits = ask(tiny, None, messages, documents, decoding=Decoding(max_new_tokens=1), caching=mode)
    wanted = dense_logits(tiny.lm, plan)
    assert float((logits[0][0] - wanted).abs().max()) < 1e-4 * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("mode", MODES)
def test_documents_found_in_a_message_equal_one_dense_masked_pass(tiny: GritLM, mode: Caching) -> None:
    document = "The heart pumps blood through the vessels of the body. " * 3
    message = f"Context:\n{document}\n\nQuestion: What pumps blood?"
    options: dict[str, Any] = {"decoding": Decoding(max_new_tokens=1), "caching": mode}
    plan = plan_prompt(lay_out(merge_turns(message), caching=mode, known=[document]), tiny.checkpoint.tokenizer)
    _, logits = ask(tiny, None, message, known_documents=[document], **options)
    wanted = dense_logits(tiny.lm, plan)
    assert len(plan.blocks) == (2 if mode == "doc" else 1)
    assert float((logits[0][0] - wanted).abs().max()) < 1e-4 * max(1.0, float(wanted.abs().max()))


def test_doc_mode_is_the_reference_s_flow(tmp_path: Path) -> None:
    """Suffix ids, positions and greedy tokens of the README's document caching, on the `gritlm` package's own model."""
    path = write_checkpoint(tmp_path / "model", seed=7, layers=3)
    grit, reference = GritLM.from_pretrained(path), load_reference(path)
    document, query = "The heart pumps blood through vessels. Stars burn hydrogen.", "What pumps blood?"
    _, cache = reference.encode([document], instruction="<|embed|>\n", get_cache=True)
    suffix = (
        f"\n<|user|>\n{query}\n\nAnswer the prior query while optionally using the context prior to it\n<|assistant|>\n"
    )
    ids = reference.tokenizer(suffix, return_tensors="pt", add_special_tokens=False).input_ids
    mask = torch.ones(1, cache.get_seq_length() + ids.shape[1], dtype=torch.long)
    output = reference.model.generate(
        input_ids=ids, attention_mask=mask, past_key_values=cache, max_new_tokens=16, do_sample=False, pad_token_id=0
    )
    plan = grit.prompt(query, [document], caching="doc").plan
    assert list(plan.suffix) == ids[0].tolist() and plan.suffix[0] == 28705
    assert list(plan.blocks[0].ids) == reference.tokenizer(f"<|embed|>\n{document}").input_ids
    ours = grit.generate(query, [document], caching="doc", decoding=Decoding(max_new_tokens=16))
    assert list(ours.token_ids) == output[0, ids.shape[1] :].tolist()[: len(ours.token_ids)]


def test_a_block_from_the_embedding_pass_equals_one_made_for_an_answer(grit: GritLM) -> None:
    documents = ["The heart pumps blood.", "Stars burn hydrogen for billions of years. " * 9, "Vessels carry it."]
    options: dict[str, Any] = {"decoding": Decoding(max_new_tokens=4), "caching": "doc"}
    miss = ask(grit, KVCacheStore(None), "What burns?", documents, **options)
    store = KVCacheStore(None)
    grit.with_options(kv_store=store, caching="doc").embed_documents([documents[2], documents[0], documents[1]])
    hit = ask(grit, store, "What burns?", documents, **options)
    assert hit[0].cache.hits == 3 and hit[0].cache.misses == 0
    assert_same(hit, miss)


def test_a_query_s_embedding_pass_serves_query_mode(tiny: GritLM) -> None:
    options: dict[str, Any] = {
        "caching": "query",
        "query_instruction": "Find passages",
        "decoding": Decoding(max_new_tokens=4),
    }
    miss = ask(tiny, KVCacheStore(None), "What burns?", ["Stars burn hydrogen."], **options)
    store = KVCacheStore(None)
    tiny.with_options(kv_store=store, caching="query").embed_queries(["What burns?"], instruction="Find passages")
    hit = ask(tiny, store, "What burns?", ["Stars burn hydrogen."], **options)
    assert hit[0].cache.hits == 1
    assert_same(hit, miss)


OTHER_PROCESS = """
import sys
from grit_integrations import Decoding, GritLM, KVCacheStore
path, kv = sys.argv[1:]
with KVCacheStore(kv) as store:
    grit = GritLM.from_pretrained(path, kv_store=store)
    for mode in ("prefix", "doc", "query-doc", "doc-query"):
        grit.generate("What burns?", ["Stars burn hydrogen. " * 20, "The heart pumps blood. " * 20], caching=mode)
"""


def test_a_block_of_another_process_equals_one_made_here(tiny: GritLM, tiny_path: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", OTHER_PROCESS, str(tiny_path), str(tmp_path / "kv")], check=True)
    documents = ["Stars burn hydrogen. " * 20, "The heart pumps blood. " * 20]
    with KVCacheStore(tmp_path / "kv") as store:
        for mode in ("prefix", "doc", "query-doc", "doc-query"):
            options: dict[str, Any] = {"caching": mode, "decoding": Decoding(max_new_tokens=8)}
            hit = ask(tiny, store, "What burns?", documents, **options)
            assert hit[0].cache.hits >= 2  # a query's block is not kept on disk
            assert_same(hit, ask(tiny, KVCacheStore(None), "What burns?", documents, **options))
