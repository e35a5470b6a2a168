"""GritQueryEngine: retrieval and answers through one model, each step announced once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from endpoints import DOCUMENTS, QUESTION
from llama_index.core import Settings
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.tools import QueryEngineTool
from llama_index_helpers import index_of

from grit_integrations import GritLM, OptionError
from grit_integrations.llama_index import (
    GritLLM,
    GritQueryEngine,
    GritRetriever,
    KVCacheEvent,
    install,
)

Fresh = Callable[..., GritLM]
KVEvents = Callable[[], list[KVCacheEvent]]
FIRST = "What pumps?"


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
        GritQueryEngine.from_index(index, grit, max_new_token=3)


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
