"""Synthesizer, retriever, query engine and chat engine: documents keep their boundaries and are read once."""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from endpoints import DOCUMENTS, QUESTION
from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms import ChatMessage, MockLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.tools import QueryEngineTool
from pacemaker import assert_loop_stays_free
from pydantic import BaseModel

from grit_integrations import GritError, GritLM, OptionError
from grit_integrations.engine.jobs import GENERATE
from grit_integrations.llama_index import (
    GritChatEngine,
    GritEmbedding,
    GritLLM,
    GritQueryEngine,
    GritRetriever,
    GritSynthesizer,
    KVCacheEvent,
    install,
)

Fresh = Callable[..., GritLM]
KVEvents = Callable[[], list[KVCacheEvent]]
FIRST = "What pumps?"


class Title(BaseModel):
    title: str


class Fixed(BaseRetriever):
    """Gives the same nodes to every question."""

    def __init__(self, nodes: list[NodeWithScore]) -> None:
        self.nodes = nodes
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return list(self.nodes)


def scored(*pairs: tuple[str, float | None]) -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text), score=score) for text, score in pairs]


def nodes_of(*texts: str) -> list[NodeWithScore]:
    return scored(*((text, 0.5) for text in texts))


def index_of(grit: GritLM, texts: list[str] = DOCUMENTS, **fields: Any) -> VectorStoreIndex:
    documents = [Document(text=text, metadata={"page": page}, **fields) for page, text in enumerate(texts)]
    return VectorStoreIndex.from_documents(documents, embed_model=GritEmbedding(grit))


def wait_until_idle(grit: GritLM) -> None:
    scheduler, deadline = grit._loaded().scheduler, time.monotonic() + 10
    while scheduler.jobs(GENERATE) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not scheduler.jobs(GENERATE)


# GritSynthesizer


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


async def test_leaving_a_stream_stops_the_work(fresh: Fresh) -> None:
    grit = fresh()
    synthesizer = GritSynthesizer(GritLLM(grit, max_new_tokens=3000), streaming=True)
    stream = synthesizer.synthesize(QUESTION, nodes_of(*DOCUMENTS)).response_gen
    next(stream)
    stream.close()
    wait_until_idle(grit)
    astream = (await synthesizer.asynthesize(QUESTION, nodes_of(*DOCUMENTS))).async_response_gen()
    await anext(astream)
    await astream.aclose()
    await asyncio.sleep(0)
    await asyncio.to_thread(wait_until_idle, grit)


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


async def test_answering_leaves_the_loop_free(fresh: Fresh) -> None:
    synthesizer, numbers = GritSynthesizer(GritLLM(fresh(), max_new_tokens=24)), iter(range(100))

    async def work() -> None:
        nodes = [nodes_of(f"{next(numbers)} {'word ' * 3000}") for _ in range(8)]
        await asyncio.gather(*(synthesizer.asynthesize(QUESTION, found) for found in nodes))

    await assert_loop_stays_free(work, least=0.1)


# GritRetriever


@pytest.mark.usefixtures("clean_settings")
async def test_documents_in_a_stock_prompt_are_read_once(fresh: Fresh, kv_events: KVEvents) -> None:
    grit = install(fresh(), max_new_tokens=5)
    index = index_of(grit)
    engine = RetrieverQueryEngine.from_args(GritRetriever(index.as_retriever()))
    engine.query(FIRST)
    answer = str(engine.query(QUESTION))
    assert kv_events()[-1].tokens_read >= grit.count_tokens("".join(DOCUMENTS))
    assert str(await engine.aquery(QUESTION)) == answer
    Settings.llm.caching = "off"
    assert str(index.as_query_engine().query(QUESTION)) == answer


async def test_nodes_come_as_they_are(fresh: Fresh) -> None:
    grit = fresh()
    plain = index_of(grit).as_retriever(similarity_top_k=2)
    wanted = plain.retrieve(QUESTION)
    retriever = GritRetriever(plain, grit)
    for found in (retriever.retrieve(QUESTION), await retriever.aretrieve(QUESTION)):
        assert [node.model_dump() for node in found] == [node.model_dump() for node in wanted]
    nodes = scored((DOCUMENTS[0], 0.5), ("", 0.4), (DOCUMENTS[1], None))
    before, objects = copy.deepcopy(nodes), list(nodes)
    found = GritRetriever(Fixed(nodes), grit).retrieve("x")
    assert all(one is other for one, other in zip(found, objects, strict=True))
    assert nodes == before


def test_an_index_is_a_retriever_too(fresh: Fresh) -> None:
    grit = fresh()
    assert len(GritRetriever(index_of(grit), grit).retrieve(QUESTION)) == 2


async def test_what_the_model_cannot_read_is_retrieved(fresh: Fresh, monkeypatch: pytest.MonkeyPatch) -> None:
    grit = fresh()
    nodes = scored(("word " * 9000, 0.6), ("\0", 0.5), ("", 0.4))
    for prefer_cached in (0.0, 0.5):
        assert GritRetriever(Fixed(nodes), grit, prefer_cached=prefer_cached).retrieve("x") == nodes
        assert await GritRetriever(Fixed(nodes), grit, prefer_cached=prefer_cached).aretrieve("x") == nodes
    monkeypatch.setattr(GritLM, "remember_documents", lambda *_: (_ for _ in ()).throw(GritError("no device")))
    assert GritRetriever(Fixed(nodes), grit).retrieve("x") == nodes
    assert GritRetriever(Fixed([]), grit).retrieve("x") == []


@pytest.mark.parametrize("mode", ["prefix", "doc"])
def test_stored_documents_may_come_first(fresh: Fresh, mode: Any) -> None:
    grit = fresh(caching=mode)
    grit.cache_documents([DOCUMENTS[1]])

    def order(nodes: list[NodeWithScore], eps: float) -> list[str]:
        return [node.text[:4] for node in GritRetriever(Fixed(nodes), grit, prefer_cached=eps).retrieve("x")]

    close = scored((DOCUMENTS[0], 0.50), (DOCUMENTS[1], 0.49), ("other", 0.48))
    assert order(close, 0.0) == order(close, 0.005) == ["The ", "Star", "othe"]
    assert order(close, 0.02) == ["Star", "The ", "othe"]
    assert order(scored((DOCUMENTS[0], None), (DOCUMENTS[1], 0.49)), 1.0) == ["The ", "Star"]
    assert order(scored((DOCUMENTS[0], 0.1), (DOCUMENTS[1], 0.49)), 1.0) == ["The ", "Star"], "someone else's order"
    for wrong in (-1, float("nan"), "much"):
        with pytest.raises(OptionError, match="prefer_cached"):
            GritRetriever(Fixed([]), grit, prefer_cached=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("mode", "warnings"), [("doc", 1), ("prefix", 0)])
def test_other_words_for_embedding_are_warned_of_once(
    fresh: Fresh, caplog: pytest.LogCaptureFixture, mode: Any, warnings: int
) -> None:
    grit = fresh(caching=mode)
    retriever = GritRetriever(index_of(grit, excluded_embed_metadata_keys=["page"]), grit)
    retriever.retrieve(FIRST)
    retriever.retrieve(QUESTION)
    assert caplog.text.count("embedded with another text") == warnings


async def test_a_retriever_without_async_leaves_the_loop_free(fresh: Fresh) -> None:
    class Slow(Fixed):
        def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
            time.sleep(0.2)
            return super()._retrieve(query_bundle)

    retriever = GritRetriever(Slow(nodes_of(*DOCUMENTS)), fresh().load())
    await assert_loop_stays_free(lambda: retriever.aretrieve("x"), least=0.2)


# GritQueryEngine


@pytest.mark.parametrize("way", ["sync", "async", "streaming", "async streaming"])
async def test_each_step_is_announced_once(
    fresh: Fresh, events: Callable[[], list[str]], kv_events: KVEvents, way: str
) -> None:
    grit = fresh()
    engine = GritQueryEngine.from_index(index_of(grit), grit, streaming="streaming" in way, max_new_tokens=3)
    before = len(events())
    response = await engine.aquery(QUESTION) if "async" in way else engine.query(QUESTION)
    if way == "streaming":
        assert "".join(response.response_gen)
    elif way == "async streaming":
        assert "".join([token async for token in response.async_response_gen()])
    seen = events()[before:]
    for name in ("Query", "Retrieval", "Embedding", "Synthesize", "LLMCompletion"):
        assert seen.count(f"{name}StartEvent") == seen.count(f"{name}EndEvent") == 1, name
    assert len(kv_events()) == seen.count("KVCacheEvent") == 1
    starts = [seen.index(f"{name}StartEvent") for name in ("Query", "Retrieval", "Synthesize", "LLMCompletion")]
    assert starts == sorted(starts)
    assert starts[-1] < seen.index("KVCacheEvent") < seen.index("LLMCompletionEndEvent")


def test_from_index(fresh: Fresh, kv_events: KVEvents) -> None:
    grit = fresh()
    index = index_of(grit, [*DOCUMENTS, "Iron rusts when water and oxygen reach it, and turns into a red powder."])
    engine = GritQueryEngine.from_index(index, grit, top_k=1, caching="doc", max_new_tokens=2)
    assert len(engine.query(QUESTION).source_nodes) == 1
    assert kv_events()[-1].mode == "doc"
    llm = GritLLM(grit, max_new_tokens=2)
    assert GritQueryEngine.from_index(index, llm)._response_synthesizer._llm is llm
    with pytest.raises(OptionError, match="beside a GritLLM"):
        GritQueryEngine.from_index(index, llm, max_new_tokens=3)
    with pytest.raises(OptionError, match="Did you mean 'max_new_tokens'"):
        GritQueryEngine.from_index(index, grit, max_tokens=3)


@pytest.mark.usefixtures("clean_settings")
def test_settings_are_enough(fresh: Fresh) -> None:
    counter = TokenCountingHandler(tokenizer=lambda _: [0] * 1000)
    grit = install(fresh(), max_new_tokens=3)
    Settings.callback_manager = CallbackManager([counter])
    engine = GritQueryEngine.from_index(index_of(grit))
    engine.query(QUESTION)
    assert isinstance(engine.retriever, GritRetriever)
    assert engine.retriever.grit is grit
    assert counter.completion_llm_token_count == 3


async def test_an_agents_tool(fresh: Fresh) -> None:
    grit = fresh()
    engine = GritQueryEngine.from_index(index_of(grit), grit, max_new_tokens=3)
    tool = QueryEngineTool.from_defaults(engine, name="library", description="Answers.")
    assert str(tool.call(QUESTION)) == str(await tool.acall(QUESTION)) == str(engine.query(QUESTION))


def test_meaning_survives(mini: GritLM) -> None:
    grit = GritLM.bundled(caching="doc")
    engine = GritQueryEngine.from_index(index_of(grit), grit, top_k=1, max_new_tokens=16)
    assert engine.query("What does the heart pump?").source_nodes[0].text == DOCUMENTS[0]


# GritChatEngine


async def say(engine: GritChatEngine, way: str, text: str) -> str:
    """Say something, and return the answer when it has ended."""
    result = getattr(engine, way)(text)
    response = await result if way.startswith("a") else result
    if way == "stream_chat":
        return "".join(response.response_gen)
    if way == "astream_chat":
        return "".join([token async for token in response.async_response_gen()])
    return str(response)


every_way = pytest.mark.parametrize("way", ["chat", "achat", "stream_chat", "astream_chat"])


@every_way
async def test_a_second_question_reads_only_what_is_new(fresh: Fresh, kv_events: KVEvents, way: str) -> None:
    said = []
    for mode in ("prefix", "off"):
        grit = fresh()
        engine = GritChatEngine.from_index(
            index_of(grit), grit, caching=mode, system_prompt="Be brief.", max_new_tokens=5
        )
        answers = [await say(engine, way, text) for text in (QUESTION, "And " + QUESTION)]
        said.append(answers)
        turns = [(message.role.value, message.content) for message in engine.chat_history]
        assert turns[:2] == [("user", QUESTION), ("assistant", answers[0])]
        assert turns[2:] == [("user", "And " + QUESTION), ("assistant", answers[1])]
    assert said[0] == said[1], "a hit changes no answer"
    assert [(event.mode, event.tokens_read > 0) for event in kv_events()] == [
        ("prefix", False),
        ("prefix", True),
        ("off", False),
        ("off", False),
    ]


def test_history_goes_to_the_model_as_messages(fresh: Fresh, prompts: Any) -> None:
    grit = fresh()
    llm, history = GritLLM(grit, max_new_tokens=2), [ChatMessage(role="user", content="Hi."), assistant("Hello.")]
    engine = GritChatEngine.from_defaults(
        Fixed(nodes_of(*DOCUMENTS)), llm, chat_history=history, system_prompt="Be brief."
    )
    engine.chat(QUESTION)
    system, question = ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content=QUESTION)
    llm.chat([system, *history, question], documents=DOCUMENTS)
    assert prompts[0] == prompts[1]
    engine.reset()
    assert engine.chat_history == []


def assistant(text: str) -> ChatMessage:
    return ChatMessage(role="assistant", content=text)


@every_way
async def test_documents_that_do_not_fit_are_chatted_about(
    fresh: Fresh, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    texts = [f"{number} " + "word " * 2300 for number in range(2)]
    engine = GritChatEngine.from_defaults(Fixed(nodes_of(*texts)), GritLLM(fresh(), max_new_tokens=3))
    assert (await say(engine, way, QUESTION)).strip()
    assert caplog.text.count("exceed the model's window") == 1
    assert len(engine.chat_history) == 2


@pytest.mark.usefixtures("clean_settings")
def test_a_chat_engine_complains_at_once(fresh: Fresh, kv_events: KVEvents) -> None:
    with pytest.raises(OptionError, match="only a GritLLM"):
        GritChatEngine.from_defaults(Fixed([]), MockLLM())
    with pytest.raises(OptionError, match="caching='dock'"):
        GritChatEngine.from_defaults(Fixed([]), GritLLM(fresh()), caching="dock")  # type: ignore[arg-type]
    install(fresh(), max_new_tokens=2)
    engine = GritChatEngine.from_defaults(Fixed(nodes_of(*DOCUMENTS)), skip_condense=False)
    engine.chat("one")
    engine.chat("two")
    assert len(kv_events()) == 3, "the second question is rewritten first"


# GritEmbedding


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_embedding_documents_is_reading_them(fresh: Fresh, way: str) -> None:
    grit = fresh(caching="doc")
    embedding = GritEmbedding(grit)
    if way == "sync":
        embedding.get_text_embedding_batch(DOCUMENTS)
    else:
        await embedding.aget_text_embedding_batch(DOCUMENTS)
    assert grit.stored(DOCUMENTS) == [True, True]
