"""GritSynthesizer: documents keep their boundaries and are read once; what it cannot answer goes elsewhere."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from endpoints import DOCUMENTS, QUESTION
from llama_index.core import Settings
from llama_index.core.instrumentation.events.llm import LLMCompletionStartEvent
from llama_index.core.llms import MockLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import MetadataMode, NodeWithScore
from llama_index_helpers import index_of, nodes_of, wait_until_idle
from pacemaker import assert_loop_stays_free
from pydantic import BaseModel

from grit_integrations import GritLM, OptionError
from grit_integrations.llama_index import (
    GritLLM,
    GritSynthesizer,
    KVCacheEvent,
    install,
)

Fresh = Callable[..., GritLM]
KVEvents = Callable[[], list[KVCacheEvent]]
FIRST = "What pumps?"


class Title(BaseModel):
    title: str


@pytest.mark.parametrize("mode", ["prefix", "doc"])
def test_an_unmodified_query_engine(fresh: Fresh, kv_events: KVEvents, mode: Any) -> None:
    grit = fresh(caching=mode)
    llm = GritLLM(grit, max_new_tokens=6)
    engine = index_of(grit).as_query_engine(llm=llm, response_synthesizer=GritSynthesizer(llm))
    engine.query(FIRST)
    response = engine.query(QUESTION)
    assert kv_events()[-1].tokens_read > 0
    assert (kv_events()[0].tokens_read > 0) == (mode == "doc"), "embedding them was reading them"
    texts = [node.get_content(MetadataMode.LLM) for node in response.source_nodes]
    wanted = GritLLM(fresh(), max_new_tokens=6, caching="off" if mode == "prefix" else "doc")
    assert str(response) == wanted.complete(QUESTION, documents=texts).text
    assert len(response.metadata) == 2


async def test_all_ways_to_ask_agree(fresh: Fresh, kv_events: KVEvents) -> None:
    found = []
    for streaming in (False, True):
        synthesizer = GritSynthesizer(GritLLM(fresh(), max_new_tokens=5), streaming=streaming)
        for _ in range(2):
            response = synthesizer.synthesize(QUESTION, nodes_of(*DOCUMENTS))
            found.append("".join(response.response_gen) if streaming else str(response))
        response = await synthesizer.asynthesize(QUESTION, nodes_of(*DOCUMENTS))
        found.append("".join([t async for t in response.async_response_gen()]) if streaming else str(response))
    assert found == found[:1] * 6
    assert [event.tokens_read > 0 for event in kv_events()] == [False, True, True] * 2


async def test_streams_are_generators(fresh: Fresh) -> None:
    synthesizer = GritSynthesizer(GritLLM(fresh(), max_new_tokens=5), streaming=True)
    stream, astream = synthesizer.get_response("a", DOCUMENTS), await synthesizer.aget_response("a", DOCUMENTS)
    assert inspect.isgenerator(stream)
    assert inspect.isasyncgen(astream)
    assert len(list(stream)) > 2
    assert len([token async for token in astream]) > 2


async def test_leaving_a_stream_stops_the_work(fresh: Fresh, running: Callable[[], int]) -> None:
    synthesizer = GritSynthesizer(GritLLM(fresh(), max_new_tokens=3000), streaming=True)
    stream = synthesizer.synthesize(QUESTION, nodes_of(*DOCUMENTS)).response_gen
    next(stream)
    stream.close()
    wait_until_idle(running)
    astream = (await synthesizer.asynthesize(QUESTION, nodes_of(*DOCUMENTS))).async_response_gen()
    await anext(astream)
    await astream.aclose()
    await asyncio.sleep(0)
    await asyncio.to_thread(wait_until_idle, running)


def test_blank_documents_are_dropped(fresh: Fresh) -> None:
    synthesizer = GritSynthesizer(GritLLM(fresh(), max_new_tokens=5))
    assert synthesizer.get_response("a", ["", *DOCUMENTS, " \n"]) == synthesizer.get_response("a", DOCUMENTS)


@pytest.mark.parametrize("nodes", [[], nodes_of("", "  ")])
async def test_without_documents_the_answer_is_empty(
    fresh: Fresh, kv_events: KVEvents, nodes: list[NodeWithScore]
) -> None:
    llm = GritLLM(fresh())
    plain, streaming = (GritSynthesizer(llm, empty_response="Nothing.", streaming=flag) for flag in (False, True))
    assert str(plain.synthesize("a", nodes)) == str(await plain.asynthesize("a", nodes)) == "Nothing."
    assert list(streaming.synthesize("a", nodes).response_gen) == ["Nothing."]
    response = await streaming.asynthesize("a", nodes)
    assert [token async for token in response.async_response_gen()] == ["Nothing."]
    assert kv_events() == []


@pytest.mark.parametrize("streaming", [False, True])
async def test_what_does_not_fit_is_packed_and_logged_once(
    fresh: Fresh, caplog: pytest.LogCaptureFixture, kv_events: KVEvents, streaming: bool
) -> None:
    synthesizer = GritSynthesizer(GritLLM(fresh(), max_new_tokens=4), streaming=streaming)
    texts = [f"{number} " + "word " * 2300 for number in range(2)]
    with caplog.at_level(logging.INFO, "grit_integrations"):
        response = synthesizer.synthesize(QUESTION, nodes_of(*texts))
        assert ("".join(response.response_gen) if streaming else str(response)).strip()
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "2 documents and the answer exceed the model's window of 4096 tokens by" in caplog.text
        assert len(kv_events()) > 1
        response = await synthesizer.asynthesize(QUESTION, nodes_of(*texts))
        answer = "".join([t async for t in response.async_response_gen()]) if streaming else str(response)
        assert answer.strip()
        assert len(caplog.records) == 2


@pytest.mark.parametrize("structured", [False, True])
async def test_structured_output_falls_back(
    fresh: Fresh, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, structured: bool
) -> None:
    async def aget_response(*_: Any, **__: Any) -> Any:
        return get_response()

    def get_response(*_: Any, **__: Any) -> Any:
        return '{"title": "Stars"}' if structured else Title(title="Stars")

    core = "llama_index.core.response_synthesizers.compact_and_refine.CompactAndRefine"
    monkeypatch.setattr(f"{core}.get_response", get_response)
    monkeypatch.setattr(f"{core}.aget_response", aget_response)
    llm = GritLLM(fresh())
    synthesizer = (
        GritSynthesizer(llm.as_structured_llm(Title)) if structured else GritSynthesizer(llm, output_cls=Title)
    )
    with caplog.at_level(logging.INFO, "grit_integrations"):
        assert synthesizer.synthesize(QUESTION, nodes_of(*DOCUMENTS)).response.title == "Stars"
        assert len(caplog.records) == 1
        assert "Structured output" in caplog.text
        assert (await synthesizer.asynthesize(QUESTION, nodes_of(*DOCUMENTS))).response.title == "Stars"


@pytest.mark.usefixtures("clean_settings")
def test_only_a_grit_llm_will_do(fresh: Fresh) -> None:
    with pytest.raises(OptionError, match="Settings has no language model"):
        GritSynthesizer()
    with pytest.raises(OptionError, match="a MockLLM; only a GritLLM"):
        GritSynthesizer(MockLLM())
    with pytest.raises(OptionError, match="caching='dock'"):
        GritSynthesizer(GritLLM(fresh()), caching="dock")  # type: ignore[arg-type]
    install(fresh(), max_new_tokens=2)
    assert GritSynthesizer()._llm is Settings.llm


def test_prompts_are_the_models_own(fresh: Fresh) -> None:
    synthesizer = GritSynthesizer(GritLLM(fresh()))
    assert synthesizer.get_prompts() == {}
    synthesizer.update_prompts({})
    with pytest.raises(OptionError, match="text_qa_template cannot be set"):
        synthesizer.update_prompts({"text_qa_template": PromptTemplate("x")})


def test_options_reach_the_model(fresh: Fresh, kv_events: KVEvents, prompts: Any) -> None:
    synthesizer = GritSynthesizer(GritLLM(fresh(), max_new_tokens=9), caching="doc")
    synthesizer.synthesize(QUESTION, nodes_of(*DOCUMENTS), max_new_tokens=2)
    assert prompts[-1][1].max_new_tokens == 2
    assert kv_events()[-1].mode == "doc"


def test_tracers_see_the_documents_as_texts(fresh: Fresh, recorded: Callable[[], list[Any]]) -> None:
    GritSynthesizer(GritLLM(fresh(), max_new_tokens=2)).synthesize(QUESTION, nodes_of(*DOCUMENTS))
    (start,) = (event for event in recorded() if isinstance(event, LLMCompletionStartEvent))
    assert json.loads(start.model_dump_json())["additional_kwargs"]["documents"] == DOCUMENTS


async def test_answering_leaves_the_loop_free(fresh: Fresh) -> None:
    synthesizer, numbers = GritSynthesizer(GritLLM(fresh(), max_new_tokens=24)), iter(range(100))

    async def work() -> None:
        nodes = [nodes_of(f"{next(numbers)} {'word ' * 3000}") for _ in range(8)]
        await asyncio.gather(*(synthesizer.asynthesize(QUESTION, found) for found in nodes))

    await assert_loop_stays_free(work, least=0.1)
