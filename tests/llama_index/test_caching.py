"""The KV cache: what is read once, and what responses, events and serialised components say about it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from endpoints import DOCUMENTS, ENDPOINTS, HELLO, QUESTION, call, every_endpoint, every_stream, text_of
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from pacemaker import assert_loop_stays_free

from grit_integrations import DocBlocks, GritLM, OptionError, PromptError
from grit_integrations.llama_index import GritEmbedding, GritLLM, KVCacheEvent

Fresh = Callable[..., GritLM]
KVEvents = Callable[[], list[KVCacheEvent]]


@every_endpoint
@pytest.mark.parametrize("mode", ["prefix", "doc"])
async def test_documents_are_read_once(fresh: Fresh, mode: str, endpoint: str) -> None:
    llm = GritLLM(fresh(caching=mode), max_new_tokens=4)
    first = (await call(llm, endpoint, "What pumps?", documents=DOCUMENTS))[-1].raw
    last = (await call(llm, endpoint, QUESTION, documents=DOCUMENTS))[-1]
    plain = llm.grit.count_tokens("".join(DOCUMENTS))
    assert first["usage"]["cache_read_tokens"] == 0 < first["usage"]["cache_creation_tokens"]
    assert last.raw["usage"]["cache_read_tokens"] >= plain
    assert last.raw["cache"]["mode"] == mode
    assert last.raw["cache"]["hits"] == 2
    again = (await call(GritLLM(fresh(caching=mode), max_new_tokens=4), endpoint, QUESTION, documents=DOCUMENTS))[-1]
    assert text_of(last) == text_of(again), "a hit changes no answer"


async def test_every_endpoint_reports_the_same(fresh: Fresh) -> None:
    found = []
    for endpoint in [*ENDPOINTS, *(f"a{name}" for name in ENDPOINTS)]:
        llm = GritLLM(fresh(), max_new_tokens=4)
        await call(llm, endpoint, "What pumps?", documents=DOCUMENTS)
        last = (await call(llm, endpoint, QUESTION, documents=DOCUMENTS))[-1]
        found.append((text_of(last), last.raw["usage"], last.raw["cache"]["hits"]))
    assert found == found[:1] * 8


def test_prefix_caching_changes_no_answer(fresh: Fresh) -> None:
    llm = GritLLM(fresh(), max_new_tokens=8)
    off, miss, hit = (llm.complete(QUESTION, documents=DOCUMENTS, caching=mode) for mode in ("off", None, "prefix"))
    assert off.text == miss.text == hit.text
    assert [r.raw["usage"]["cache_read_tokens"] > 0 for r in (off, miss, hit)] == [False, False, True]
    assert off.raw["cache"]["mode"] == "off"


@every_endpoint
async def test_responses_with_documents_are_json(fresh: Fresh, endpoint: str) -> None:
    for response in await call(GritLLM(fresh(), max_new_tokens=3), endpoint, documents=DOCUMENTS):
        assert type(response).model_validate_json(response.model_dump_json()) == response
        json.dumps(response.raw)


@every_endpoint
async def test_one_event_a_generation(fresh: Fresh, kv_events: KVEvents, endpoint: str) -> None:
    llm = GritLLM(fresh(), max_new_tokens=3)
    raws = [(await call(llm, endpoint, QUESTION, documents=DOCUMENTS))[-1].raw for _ in range(2)]
    events = kv_events()
    assert len(events) == 2
    assert all(event.span_id for event in events), "it belongs to the call"
    for event, raw in zip(events, raws, strict=True):
        assert (event.mode, event.hits, event.misses) == tuple(
            raw["cache"][name] for name in ("mode", "hits", "misses")
        )
        assert (event.tokens_read, event.bytes_read) == (raw["usage"]["cache_read_tokens"], raw["cache"]["bytes_read"])
        assert event.tokens_created == raw["usage"]["cache_creation_tokens"]
        assert event.load_seconds == raw["timings"]["load"]
    assert events[1].tokens_read > 0
    assert json.loads(events[1].model_dump_json())["mode"] == "prefix"
    assert events[1].model_dump()["class_name"] == KVCacheEvent.class_name() == "KVCacheEvent"


@every_stream
async def test_a_stream_that_is_left_early_sends_no_event(fresh: Fresh, kv_events: KVEvents, endpoint: str) -> None:
    llm = GritLLM(fresh(), max_new_tokens=3000)
    argument: Any = "hello" if endpoint.endswith("complete") else HELLO
    stream = getattr(llm, endpoint)(argument)
    if endpoint.startswith("a"):
        stream = await stream
        await anext(stream)
        await stream.aclose()
    else:
        next(stream)
        stream.close()
    assert kv_events() == []


@every_endpoint
async def test_the_token_counter_reads_usage(fresh: Fresh, endpoint: str) -> None:
    counter = TokenCountingHandler(tokenizer=lambda _: [0] * 1000)
    llm = GritLLM(fresh(), max_new_tokens=3, callback_manager=CallbackManager([counter]))
    usage = (await call(llm, endpoint, documents=DOCUMENTS))[-1].raw["usage"]
    assert counter.prompt_llm_token_count == usage["prompt_tokens"]


@every_endpoint
async def test_wrong_documents_and_modes_are_refused(fresh: Fresh, prompts: Any, endpoint: str) -> None:
    llm = GritLLM(fresh())
    with pytest.raises(PromptError, match=r"Put it in a list"):
        await call(llm, endpoint, documents="one text")
    with pytest.raises(PromptError, match="Document 1"):
        await call(llm, endpoint, documents=["text", " "])
    with pytest.raises(OptionError, match="caching='dock' is unknown"):
        await call(llm, endpoint, caching="dock")
    with pytest.raises(OptionError, match="Did you mean 'documents'"):
        await call(llm, endpoint, document=["text"])
    assert prompts == []


def test_the_mode_of_the_object(fresh: Fresh, tiny: GritLM) -> None:
    with pytest.raises(OptionError, match="caching='dock' is unknown"):
        GritLLM(tiny, caching="dock")  # type: ignore[arg-type]
    llm = GritLLM(fresh(), caching="doc", max_new_tokens=1)
    assert llm.complete("hello").raw["cache"]["mode"] == "doc"
    llm.caching = None
    assert llm.complete("hello").raw["cache"]["mode"] == "prefix"
    assert llm.complete("hello", caching="off").raw["cache"]["mode"] == "off"
    assert GritLLM(tiny.source, caching="doc").grit.caching == "doc", "a name's model embeds in that mode too"


def test_from_dict_keeps_the_mode(fresh: Fresh) -> None:
    for llm in (GritLLM(fresh(caching="doc")), GritLLM(fresh(), caching="doc")):
        again = GritLLM.from_json(llm.to_json())
        assert again.to_dict() == llm.to_dict()
        assert again.to_dict()["caching"] == again.grit.caching == "doc"
        assert llm.to_payload()["caching"] == "doc"
    assert GritLLM(fresh()).to_dict()["caching"] == "prefix"


def test_from_dict_keeps_how_documents_are_read(fresh: Fresh) -> None:
    blocks = DocBlocks(pattern="causal", recompute_share=0.15)
    llm = GritLLM(fresh().with_options(caching="doc", doc_blocks=blocks))
    data = llm.to_dict()
    assert json.loads(json.dumps(data["doc_blocks"])) == blocks.to_dict()
    again = GritLLM.from_dict(data)
    assert again.grit.settings.doc_blocks == blocks and again.to_dict() == data
    assert GritLLM.from_dict(data, model=llm.grit).grit is llm.grit
    assert GritLLM(llm.grit.source, doc_blocks=blocks).grit.settings.doc_blocks == blocks
    assert GritLLM(fresh()).to_dict()["doc_blocks"] is None
    with pytest.raises(OptionError, match="beside a GritLM that has its own"):
        GritLLM(fresh(), doc_blocks=blocks)


def test_what_does_not_fit_is_counted(fresh: Fresh) -> None:
    llm = GritLLM(fresh(), max_new_tokens=96, system_prompt="Be brief.")
    assert llm.prepare("short", documents=DOCUMENTS).prompt.missing(llm.max_new_tokens) == 0
    text = "word " * 5000
    prompt = llm.prepare("short", documents=[text]).prompt
    missing = prompt.missing(llm.max_new_tokens)
    assert missing == prompt.missing(46) + 50
    assert not llm.grit.is_loaded


async def test_async_with_documents_leaves_the_loop_free(fresh: Fresh) -> None:
    llm, numbers = GritLLM(fresh(), max_new_tokens=24), iter(range(100))

    async def work() -> None:
        texts = [f"{next(numbers)} {'word ' * 3000}" for _ in range(8)]
        await asyncio.gather(*(llm.acomplete(QUESTION, documents=[text]) for text in texts))

    await assert_loop_stays_free(work, least=0.1)


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_embedding_documents_is_reading_them(fresh: Fresh, way: str) -> None:
    grit = fresh(caching="doc")
    embedding = GritEmbedding(grit)
    if way == "sync":
        embedding.get_text_embedding_batch(DOCUMENTS)
    else:
        await embedding.aget_text_embedding_batch(DOCUMENTS)
    assert grit.stored(DOCUMENTS) == [True, True]
