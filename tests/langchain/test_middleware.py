"""GritRAGMiddleware in true agents: one retrieval for each user message, documents beside the messages."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, hook_config
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.retrievers import BaseRetriever
from langchain_helpers import cache_read, documents, renewed
from langgraph.checkpoint.memory import InMemorySaver

import grit_integrations.langchain
from grit_integrations import GritLM, MissingExtraError, OptionError
from grit_integrations.langchain import ChatGrit, GritRAGMiddleware, GritRetriever

FIRST, SECOND = "What pumps blood?", "And why does it do so?"


class Counting(BaseRetriever):
    found: list[Document]
    asked: list[str]

    def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
        self.asked.append(query)
        return self.found


class Again(AgentMiddleware):
    """Sends the agent back to the model once."""

    @hook_config(can_jump_to=["model"])
    def after_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        answers = [message for message in state["messages"] if isinstance(message, AIMessage)]
        return {"jump_to": "model"} if len(answers) < 2 else None


def chat_of(grit: GritLM, **options: Any) -> ChatGrit:
    return ChatGrit(model=grit, max_tokens=8, **options)


def test_documents_reach_the_model_and_are_read_once(fresh: GritLM) -> None:
    given = documents("middleware")
    retriever = GritRetriever.from_documents(given[:1], model=fresh)
    agent = create_agent(chat_of(fresh), tools=[], middleware=[GritRAGMiddleware(retriever)])
    agent.invoke({"messages": [HumanMessage(FIRST)]})
    result = agent.invoke({"messages": [HumanMessage(SECOND)]})
    [_, answer] = result["messages"]  # the documents are in none of them
    assert cache_read(answer) > 150
    assert answer.text == chat_of(renewed(fresh), caching="off").invoke(SECOND, documents=given[:1]).text
    assert [document.page_content for document in result["retrieved_documents"]] == [given[0].page_content]
    assert "retrieved_for" not in result


async def test_async_equals_sync(fresh: GritLM) -> None:
    retriever = GritRetriever.from_documents(documents("middleware, async"), model=fresh)
    agent = create_agent(chat_of(fresh), tools=[], middleware=[GritRAGMiddleware(retriever, k=2)])
    result = await agent.ainvoke({"messages": [HumanMessage(FIRST)]})
    assert result["messages"][-1].text == agent.invoke({"messages": [HumanMessage(FIRST)]})["messages"][-1].text
    assert len(result["retrieved_documents"]) == 2


def test_a_user_message_is_retrieved_for_once(fresh: GritLM) -> None:
    retriever = Counting(found=documents("once")[:1], asked=[])
    agent = create_agent(chat_of(fresh), tools=[], middleware=[GritRAGMiddleware(retriever), Again()])
    result = agent.invoke({"messages": [HumanMessage(FIRST)]})
    assert [message.type for message in result["messages"]] == ["human", "ai", "ai"]
    assert retriever.asked == [FIRST]


def test_each_turn_of_a_conversation_is_retrieved_for(fresh: GritLM) -> None:
    retriever = Counting(found=documents("turns")[:1], asked=[])
    agent = create_agent(
        chat_of(fresh), tools=[], middleware=[GritRAGMiddleware(retriever)], checkpointer=InMemorySaver()
    )
    config: Any = {"configurable": {"thread_id": "1"}}
    answers = [
        agent.invoke({"messages": [HumanMessage(text)]}, config)["messages"][-1] for text in (FIRST, SECOND, SECOND)
    ]
    assert retriever.asked == [FIRST, SECOND, SECOND]
    assert cache_read(answers[1]) == answers[0].usage_metadata["input_tokens"]
    assert cache_read(answers[2]) == answers[1].usage_metadata["input_tokens"]


def test_nothing_is_retrieved_without_a_question(fresh: GritLM) -> None:
    retriever = Counting(found=documents("no question"), asked=[])
    agent = create_agent(chat_of(fresh), tools=[], middleware=[GritRAGMiddleware(retriever)], system_prompt="Speak.")
    assert agent.invoke({"messages": [HumanMessage(" ")]})["messages"][-1].text
    assert retriever.asked == []


def test_other_models_are_refused_with_the_cure() -> None:
    retriever = Counting(found=documents("other models"), asked=[])
    agent = create_agent(FakeListChatModel(responses=["a"]), tools=[], middleware=[GritRAGMiddleware(retriever)])
    with pytest.raises(
        OptionError, match="model is a FakeListChatModel, and documents can only be given to a ChatGrit"
    ):
        agent.invoke({"messages": [HumanMessage(FIRST)]})


def test_without_langchains_agents_only_the_middleware_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "langchain":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.delitem(sys.modules, "grit_integrations.langchain.middleware")
    for name in [name for name in sys.modules if name.partition(".")[0] == "langchain"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    room = import_module("grit_integrations.langchain")
    assert room.GritRetriever is GritRetriever
    with pytest.raises(MissingExtraError, match=r"pip install 'grit_integrations\[agents\]'"):
        _ = room.GritRAGMiddleware
    with pytest.raises(AttributeError, match="has no attribute 'GritRag'"):
        _ = grit_integrations.langchain.GritRag
