"""An overflow of the window is this package's error and LangChain's own, at every door that reads text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.documents import Document
from langchain_core.exceptions import ContextOverflowError as LangChainsError
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage

from grit_integrations import ContextOverflowError, GritLM
from grit_integrations.langchain import ChatGrit, GritEmbeddings, GritLLM, GritReranker, GritRetriever

TOO_LONG = "word " * 5000
SHORT = [Document("The heart pumps blood.")]

DOORS: dict[str, Callable[[GritLM], Any]] = {
    "ChatGrit.invoke": lambda grit: ChatGrit(model=grit).invoke(TOO_LONG),
    "ChatGrit.stream": lambda grit: list(ChatGrit(model=grit).stream(TOO_LONG)),
    "ChatGrit, no room to answer": lambda grit: ChatGrit(model=grit, max_tokens=5000).invoke("Hello"),
    "ChatGrit, documents": lambda grit: ChatGrit(model=grit).invoke("Hello", documents=[TOO_LONG]),
    "ChatGrit, a quote": lambda grit: ChatGrit(model=grit, quote=True).invoke("Hello", documents=[TOO_LONG]),
    "GritLLM.invoke": lambda grit: GritLLM(model=grit).invoke(TOO_LONG),
    "GritLLM.stream": lambda grit: list(GritLLM(model=grit).stream(TOO_LONG)),
    "GritLLM.generate": lambda grit: GritLLM(model=grit).generate(["Hello", TOO_LONG]),
    "GritEmbeddings.embed_query": lambda grit: GritEmbeddings(model=grit).embed_query(TOO_LONG),
    "GritEmbeddings.embed_documents": lambda grit: GritEmbeddings(model=grit).embed_documents(["Hello", TOO_LONG]),
    "GritEmbeddings, an instruction": lambda grit: GritEmbeddings(
        model=grit, query_instruction=TOO_LONG, truncate=True
    ).embed_query("Hello"),
    "GritReranker": lambda grit: GritReranker(model=grit).compress_documents(SHORT, TOO_LONG),
    "GritReranker.as_cross_encoder": lambda grit: (
        GritReranker(model=grit).as_cross_encoder().score([(TOO_LONG, "Hello")])
    ),
    "GritRetriever": lambda grit: GritRetriever.from_documents(SHORT, model=grit).invoke(TOO_LONG),
    "GritRetriever.add_documents": lambda grit: GritRetriever.from_documents([Document(TOO_LONG)], model=grit),
}
ASYNC_DOORS: dict[str, Callable[[GritLM], Any]] = {
    "ChatGrit.ainvoke": lambda grit: ChatGrit(model=grit).ainvoke(TOO_LONG),
    "ChatGrit.astream": lambda grit: anext(ChatGrit(model=grit).astream(TOO_LONG)),
    "GritLLM.ainvoke": lambda grit: GritLLM(model=grit).ainvoke(TOO_LONG),
    "GritLLM.astream": lambda grit: anext(GritLLM(model=grit).astream(TOO_LONG)),
    "GritEmbeddings.aembed_query": lambda grit: GritEmbeddings(model=grit).aembed_query(TOO_LONG),
    "GritEmbeddings.aembed_documents": lambda grit: GritEmbeddings(model=grit).aembed_documents([TOO_LONG]),
    "GritReranker.arerank": lambda grit: GritReranker(model=grit).arerank(SHORT, TOO_LONG),
    "GritRetriever.ainvoke": lambda grit: GritRetriever.from_documents(SHORT, model=grit).ainvoke(TOO_LONG),
}


@pytest.mark.parametrize("door", DOORS)
def test_an_overflow_is_an_error_of_both_libraries(door: str, tiny: GritLM) -> None:
    with pytest.raises(ContextOverflowError) as caught:
        DOORS[door](tiny)
    assert isinstance(caught.value, LangChainsError)
    assert not caught.value.is_retryable


@pytest.mark.parametrize("door", ASYNC_DOORS)
async def test_an_overflow_of_an_async_call_likewise(door: str, tiny: GritLM) -> None:
    with pytest.raises(LangChainsError) as caught:
        await ASYNC_DOORS[door](tiny)
    assert isinstance(caught.value, ContextOverflowError)


def test_summarising_middleware_recovers_from_an_overflow(chat: ChatGrit) -> None:
    """It asks again with less where the summary itself does not fit."""
    summarise = SummarizationMiddleware(
        chat, trigger=("messages", 3), keep=("messages", 1), trim_tokens_to_summarize=None
    )
    agent = create_agent(chat, tools=[], middleware=[summarise])
    thread = [HumanMessage(TOO_LONG), AIMessage("Hm."), HumanMessage("Hello")]
    first, *_, last = agent.invoke({"messages": thread})["messages"]
    assert "summary" in first.text.lower() and len(first.text) < len(TOO_LONG)
    assert isinstance(last, AIMessage)


def test_fallbacks_may_be_kept_for_overflows(chat: ChatGrit) -> None:
    larger = FakeListChatModel(responses=["from the larger window"])
    safe = chat.with_fallbacks([larger], exceptions_to_handle=(LangChainsError,))
    assert safe.invoke(TOO_LONG).text == "from the larger window"
