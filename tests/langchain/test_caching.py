"""ChatGrit and the KV cache: which prompts hit, that a hit changes no text, and where it is reported."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRequest, dynamic_prompt
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.documents import Document
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnablePassthrough
from langchain_core.tools import BaseTool, tool
from langchain_helpers import cache_read, documents, renewed

from grit_integrations import DocBlocks, GritLM, KVCacheStore, OptionError
from grit_integrations.langchain import ChatGrit, GritLLM, GritRetriever

FIRST, SECOND = "What pumps blood?", "And why does it do so?"


def chat_of(grit: GritLM, **options: Any) -> ChatGrit:
    return ChatGrit(model=grit, max_tokens=8, **options)


# Options


def test_the_instance_and_the_call_choose_the_mode(fresh: GritLM) -> None:
    def mode(chat: Runnable[Any, AIMessage], **options: Any) -> str:
        return str(chat.invoke("Hello", **options).response_metadata["cache"]["mode"])

    assert mode(chat_of(fresh)) == "prefix"
    assert mode(chat_of(renewed(fresh, "doc"))) == "doc"
    assert mode(chat_of(fresh, caching="doc")) == mode(chat_of(fresh), caching="doc") == "doc"
    assert mode(chat_of(fresh, caching="doc"), caching="off") == "off"
    assert mode(chat_of(fresh).bind(caching="off")) == "off"


def test_an_unknown_mode_or_document_is_refused_before_any_work() -> None:
    with pytest.raises(ValueError, match=r"caching='docs' is unknown. Use one of off, prefix, doc"):
        ChatGrit(caching="docs")
    chat = ChatGrit(model="no-such/model")
    with pytest.raises(OptionError, match=r"caching='docs' is unknown"):
        chat.invoke("Hello", caching="docs")
    with pytest.raises(OptionError, match=r"documents is a str"):
        chat.invoke("Hello", documents="one text")
    with pytest.raises(OptionError, match=r"'documets' is unknown. Did you mean 'documents'\?"):
        chat.invoke("Hello", documets=[])


def test_documents_are_the_cores_and_blank_ones_are_none(fresh: GritLM) -> None:
    given = documents("the core")
    wanted = fresh.generate(FIRST, [given[0].page_content, "Stars."], decoding=chat_of(fresh).decoding)
    answer = chat_of(fresh).invoke(FIRST, documents=[given[0], Document(" "), "Stars.", ""])
    assert (answer.text, answer.usage_metadata["input_tokens"]) == (wanted.text, wanted.usage.prompt_tokens)
    assert answer.text == chat_of(fresh).bind(documents=[given[0], "Stars."]).invoke(FIRST).text
    assert chat_of(fresh).invoke(FIRST, documents=[" "]).text == chat_of(fresh).invoke(FIRST).text


def test_gritllm_takes_both_too(fresh: GritLM) -> None:
    llm, given = GritLLM(model=fresh, max_tokens=8, caching="doc"), documents("the twin")
    chat = chat_of(fresh, caching="doc")
    assert llm.invoke(FIRST, documents=given) == chat.invoke(FIRST, documents=given).text
    assert "".join(llm.stream(FIRST, documents=given)) == llm.invoke(FIRST, documents=given)
    usage = llm.generate([FIRST], documents=given).llm_output["token_usage"]
    assert usage["cache_read_tokens"] > 300


# Reports


async def test_all_four_ways_report_the_same(fresh: GritLM) -> None:
    given, question = documents("reports"), "How long do they burn?"
    chat_of(fresh).invoke(FIRST, documents=given)

    async def read_async() -> Any:
        chunks = [chunk async for chunk in chat.astream(question, documents=given)]
        return sum(chunks[1:], start=chunks[0])

    def read() -> Any:
        chunks = list(chat.stream(question, documents=given))
        return sum(chunks[1:], start=chunks[0])

    chat = chat_of(fresh)
    answers = [chat.invoke(question, documents=given), await chat.ainvoke(question, documents=given)]
    answers += [read(), await read_async()]
    assert len({answer.text for answer in answers}) == 1
    assert all(answer.usage_metadata == answers[0].usage_metadata for answer in answers)
    details = answers[0].usage_metadata["input_token_details"]
    assert set(details) == {"cache_read", "cache_creation"} and details["cache_read"] > 300
    for answer in answers:
        cache = answer.response_metadata["cache"]
        assert set(cache) == {"mode", "hits", "misses", "declined", "bytes_read", "nanoseconds_saved"}
        assert (cache["mode"], cache["hits"], cache["misses"]) == ("prefix", 3, 0)
        assert json.loads(json.dumps(cache)) == cache
        assert {"load", "prefill"} <= set(answer.response_metadata["timings"])


def test_handlers_sum_what_was_read(fresh: GritLM) -> None:
    given, usage = documents("sums"), UsageMetadataCallbackHandler()
    answers = [chat_of(fresh).invoke(q, {"callbacks": [usage]}, documents=given) for q in (FIRST, SECOND)]
    assert usage.usage_metadata[fresh.source]["input_token_details"]["cache_read"] == sum(map(cache_read, answers)) > 0


def test_nothing_is_read_or_kept_with_caching_off(fresh: GritLM) -> None:
    given = documents("nothing")
    for _ in range(2):
        answer = chat_of(fresh).invoke(FIRST, documents=given, caching="off")
        assert answer.usage_metadata["input_token_details"] == {"cache_read": 0, "cache_creation": 0}


# LangChain's cache of answers


@pytest.fixture
def answers() -> Iterator[InMemoryCache]:
    cache = InMemoryCache()
    set_llm_cache(cache)
    yield cache
    set_llm_cache(None)


@pytest.mark.parametrize("adapter", [ChatGrit, GritLLM])
def test_cached_answers_are_kept_apart_by_documents_and_mode(
    adapter: Any, fresh: GritLM, answers: InMemoryCache
) -> None:
    model, given = adapter(model=fresh, max_tokens=4), documents("apart")
    calls: list[dict[str, Any]] = [
        {},
        {"documents": given[:1]},
        {"documents": given[1:2]},
        {"documents": given[:2]},
        {"documents": given[1::-1]},
        {"documents": given[:1], "caching": "doc"},
    ]
    for call in calls:
        model.invoke(FIRST, **call)
    assert len(answers._cache) == len(calls)
    for call in calls:
        model.invoke(FIRST, **call)
    model.invoke(FIRST, documents=[given[0].page_content])
    model.bind(documents=given[:1], caching="prefix").invoke(FIRST)
    adapter(model=fresh, max_tokens=4, caching="doc").invoke(FIRST, documents=given[:1])
    assert len(answers._cache) == len(calls)


def test_cached_answers_are_kept_apart_by_how_documents_are_read(fresh: GritLM, answers: InMemoryCache) -> None:
    given, settings = documents("settings"), [DocBlocks(), DocBlocks(recompute_first=8), DocBlocks(pattern="causal")]
    for _ in range(2):
        for blocks in settings:
            chat = chat_of(fresh.with_options(doc_blocks=blocks))
            chat.invoke(FIRST, documents=given, caching="doc")
            chat.invoke(FIRST, documents=given, caching="prefix")  # where they play no part
    assert len(answers._cache) == len(settings) + 1


def test_cached_answers_are_kept_apart_by_what_tools_found(fresh: GritLM, answers: InMemoryCache) -> None:
    given = documents("found")
    for artifact in (given[:1], given[:2]):
        chat_of(fresh).invoke(_agent_turn(FIRST, given[0].page_content, artifact))
    assert len(answers._cache) == 2


def test_rounded_blocks_have_answers_of_their_own(fresh: GritLM, tiny: GritLM) -> None:
    rounded = GritLM(tiny.source, kv_store=KVCacheStore(None, precision="int8"))
    assert chat_of(rounded)._get_llm_string() != chat_of(fresh)._get_llm_string() == chat_of(tiny)._get_llm_string()


# The tutorials' shapes


def _agent_turn(question: str, found: str, artifact: Any) -> list[BaseMessage]:
    call = {"type": "tool_call", "id": "call_1", "name": "retrieve_context", "args": {"query": question}}

    @tool(response_format="content_and_artifact")
    def retrieve_context(query: str) -> tuple[str, Any]:
        """Retrieve information to help answer a query."""
        return found, artifact

    return [HumanMessage(question), AIMessage("", tool_calls=[call]), retrieve_context.invoke(call)]


def retrieval_tool(retriever: GritRetriever) -> BaseTool:
    @tool(response_format="content_and_artifact")
    def retrieve_context(query: str) -> tuple[str, list[Document]]:
        """Retrieve information to help answer a query."""
        retrieved = retriever.vectorstore.similarity_search(query, k=2)  # as the tutorial has it
        serialized = "\n\n".join(f"Source: {doc.metadata}\nContent: {doc.page_content}" for doc in retrieved)
        return serialized, retrieved

    return retrieve_context


def asked_of_agent(chat: ChatGrit, history: list[BaseMessage], retrieve: BaseTool, question: str) -> AIMessage:
    """Do what `create_agent` does when the model calls the tool; the call is scripted, since GritLM knows none."""
    call = {"type": "tool_call", "id": f"call_{len(history)}", "name": retrieve.name, "args": {"query": question}}
    history += [HumanMessage(question), AIMessage("", tool_calls=[call]), retrieve.invoke(call)]
    system = SystemMessage("You have access to a tool that retrieves context from a blog post. Use it to answer.")
    answer = chat.invoke([system, *history])
    history.append(answer)
    return answer


def test_the_tutorials_agent_reads_its_documents_once(fresh: GritLM) -> None:
    retriever = GritRetriever.from_documents(documents("the agent"), model=fresh)
    retrieve = retrieval_tool(retriever)
    history: list[BaseMessage] = []
    asked_of_agent(chat_of(fresh), history, retrieve, FIRST)
    second = asked_of_agent(chat_of(fresh), history, retrieve, SECOND)
    assert cache_read(second) > 300
    plain: list[BaseMessage] = []
    reference = chat_of(renewed(fresh), caching="off")
    asked_of_agent(reference, plain, retrieve, FIRST)
    assert asked_of_agent(reference, plain, retrieve, SECOND).text == second.text
    assert [message.text for message in plain] == [message.text for message in history]


def test_doc_caching_finds_a_tools_documents_in_other_conversations_too(fresh: GritLM) -> None:
    grit = renewed(fresh, "doc")
    given = documents("other conversations")
    found = "\n\n".join(f"Source: {doc.metadata}\nContent: {doc.page_content}" for doc in given)
    chat_of(grit).invoke(_agent_turn(FIRST, found, given))
    second = chat_of(grit).invoke(_agent_turn("Why do stars shine?", found, given))
    assert second.response_metadata["cache"]["hits"] >= 3
    assert second.text == chat_of(renewed(fresh, "doc")).invoke(_agent_turn("Why do stars shine?", found, given)).text
    without = chat_of(renewed(fresh, "doc")).invoke(_agent_turn("Why do stars shine?", found, None))
    assert without.response_metadata["cache"]["hits"] == 0


def two_step_chain(chat: ChatGrit, retriever: GritRetriever) -> Callable[[str], AIMessage]:
    @dynamic_prompt
    def prompt_with_context(request: ModelRequest) -> str:
        retrieved = retriever.invoke(request.state["messages"][-1].text)
        content = "\n\n".join(doc.page_content for doc in retrieved)
        return f"You are a helpful assistant. Use the following context in your response:\n\n{content}"

    agent = create_agent(chat, tools=[], middleware=[prompt_with_context])
    return lambda question: agent.invoke({"messages": [{"role": "user", "content": question}]})["messages"][-1]


def lcel_chain(chat: ChatGrit, retriever: GritRetriever) -> Callable[[str], AIMessage]:
    def format_docs(docs: list[Document]) -> str:
        return "\n\n".join(doc.page_content for doc in docs)

    prompt = ChatPromptTemplate.from_template(
        "Use the following pieces of retrieved context to answer the question.\nQuestion and context follow.\n"
        "Context: {context}\nQuestion: {question}"
    )
    chain = {"context": retriever | format_docs, "question": RunnablePassthrough()} | prompt | chat
    assert isinstance((chain | StrOutputParser()).invoke("Is it a text?"), str)
    return chain.invoke


@pytest.mark.parametrize("shape", [two_step_chain, lcel_chain])
def test_the_tutorials_chains_read_their_documents_once(
    fresh: GritLM, shape: Callable[[ChatGrit, GritRetriever], Callable[[str], AIMessage]]
) -> None:
    retriever = GritRetriever.from_documents(documents(shape.__name__)[:1], model=fresh)
    ask = shape(chat_of(fresh), retriever)
    ask(FIRST)
    second = ask(SECOND)
    assert cache_read(second) > 150  # the document, not only the words before it
    reference = shape(chat_of(renewed(fresh), caching="off"), retriever)(SECOND)
    assert reference.text == second.text
    assert reference.usage_metadata["input_tokens"] == second.usage_metadata["input_tokens"]


def test_in_doc_mode_what_was_retrieved_changes_no_template(fresh: GritLM) -> None:
    """There a block of its own is read differently, so only documents and artifacts of the call are blocks."""
    [document] = documents("doc mode")[:1]
    chat, prompt = chat_of(fresh, caching="doc"), f"Use this:\n\n{document.page_content}\n\n{FIRST}"
    before, key = chat.invoke(prompt), chat._get_llm_string()
    GritRetriever.from_documents([document], model=fresh).invoke(FIRST)
    after = chat.invoke(prompt)
    assert (after.text, chat._get_llm_string()) == (before.text, key)
    assert after.usage_metadata["input_tokens"] == before.usage_metadata["input_tokens"]


def test_a_conversation_is_read_once(fresh: GritLM) -> None:
    chat, history = chat_of(fresh), [SystemMessage("You answer in a few words. " * 5)]
    before = 0
    for turn in range(4):
        history.append(HumanMessage(f"Question {turn}: " + "what is it that pumps the blood? " * 8))
        answer = chat.invoke(history)
        assert cache_read(answer) == before  # everything before the last answer
        assert answer.text == chat_of(renewed(fresh)).invoke(history, caching="off").text
        before = answer.usage_metadata["input_tokens"]
        history.append(AIMessage(answer.text))
    assert before > 400


async def test_concurrent_questions_about_one_document_read_it_from_the_cache(fresh: GritLM) -> None:
    chat, given = chat_of(fresh), documents("concurrent")
    await chat.ainvoke(FIRST, documents=given)
    answers = await asyncio.gather(*(chat.ainvoke(f"Question {n}?", documents=given) for n in range(4)))
    assert all(cache_read(answer) > 300 for answer in answers)
