"""ChatGrit: what comes back, how it streams, and that nobody's event loop waits and nobody's work goes on unread."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import dynamic_prompt
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, CallbackManagerForLLMRun, UsageMetadataCallbackHandler
from langchain_core.messages import HumanMessage, trim_messages
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGenerationChunk, LLMResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_helpers import await_until, break_at_step, running, wait_until

from grit_integrations import ContextOverflowError, Decoding, EmptyTextError, GritLM, handle
from grit_integrations.langchain import ChatGrit, GritEmbeddings

LONG = {"max_tokens": 2000}  # minutes of work, unless it is stopped


def test_an_answer_is_the_cores_with_its_metadata(chat: ChatGrit, tiny: GritLM) -> None:
    generation = tiny.generate("Hello", decoding=Decoding(max_new_tokens=8))
    answer = chat.invoke("Hello")
    assert answer.content == generation.text  # only new text: no prompt, no markers
    usage = generation.usage
    assert answer.usage_metadata == {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "input_token_details": {"cache_read": 0, "cache_creation": usage.prompt_tokens},
    }
    timings = answer.response_metadata.pop("timings")
    assert {"queue", "load", "prefill", "time_to_first_token", "decode"} == set(timings)
    assert answer.response_metadata.pop("cache")["mode"] == "prefix"
    assert answer.response_metadata == {
        "model_name": tiny.source,
        "model_provider": "grit",
        "finish_reason": "length",
    }


QUOTED = {"documents": ["The heart is a muscle that pumps blood. Stars shine by fusion."], "quote": True}
ASKED: list[dict[str, Any]] = [
    {},
    {"logprobs": True, "top_logprobs": 2},
    {"logprobs": True, "stop": ["a", "e", "i", "o"]},
    {"max_tokens": 1, "temperature": 1.0, "seed": 3, "logprobs": True},
    {**QUOTED, "logprobs": True},
    {**QUOTED, "quote": {"method": "spans"}},
    {**QUOTED, "quote": {"method": "sentences", "sentences": 2}},
]


def summed(chunks: list[Any]) -> Any:
    return sum(chunks[1:], start=chunks[0])


@pytest.mark.parametrize("options", ASKED, ids=str)
async def test_a_stream_adds_up_to_the_answer(chat: ChatGrit, options: dict[str, Any]) -> None:
    chat.invoke("Hello", **options)  # from here on, all have the same of it in the cache
    answer = chat.invoke("Hello", **options)
    for chunks in (list(chat.stream("Hello", **options)), [chunk async for chunk in chat.astream("Hello", **options)]):
        full = summed(chunks)
        assert (full.text, full.usage_metadata) == (answer.text, answer.usage_metadata)
        assert [bool(chunk.usage_metadata) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        assert [chunk.chunk_position for chunk in chunks] == [None] * (len(chunks) - 1) + ["last"]
        assert told(full.response_metadata) == told(answer.response_metadata)
        if "quote" in options:
            assert full.content[0]["annotations"] == answer.content[0]["annotations"]


def told(metadata: dict[str, Any]) -> dict[str, Any]:
    """What is said of an answer but how long it took."""
    cache = {name: value for name, value in metadata["cache"].items() if name != "nanoseconds_saved"}
    return {**metadata, "cache": cache, "timings": sorted(metadata["timings"])}


def test_chunks_of_several_answers_add_up_too(chat: ChatGrit) -> None:
    """As an agent's calls do in a loop over what it streams."""
    answers = [list(chat.stream("Hello", logprobs=True)) for _ in range(3)]
    singles, total = [summed(chunks) for chunks in answers], summed([chunk for chunks in answers for chunk in chunks])
    assert total.text == "".join(single.text for single in singles)
    assert total.usage_metadata["total_tokens"] == sum(single.usage_metadata["total_tokens"] for single in singles)
    decoding = [single.response_metadata["timings"]["decode"] for single in singles]
    assert total.response_metadata["timings"]["decode"] == sum(decoding) > 0


def test_logprobs_have_the_usual_shape_and_are_log_probabilities(chat: ChatGrit) -> None:
    content = chat.invoke("Hello", logprobs=True, top_logprobs=3).response_metadata["logprobs"]["content"]
    assert len(content) == 8
    for entry in content:
        assert entry["top_logprobs"][0]["logprob"] == entry["logprob"]  # greedy
        assert sum(math.exp(other["logprob"]) for other in entry["top_logprobs"]) <= 1
    assert chat.invoke("Hello", logprobs=True).response_metadata["logprobs"]["content"][0]["top_logprobs"] == []
    assert "logprobs" not in chat.invoke("Hello", logprobs=False, top_logprobs=3).response_metadata
    with pytest.raises(ValueError, match="see top_logprobs"):
        chat.invoke("Hello", logprobs=3)


def test_stop_strings_may_span_tokens_in_both_forms(chat: ChatGrit) -> None:
    text = chat.invoke("Hello").text
    pieces = [chunk.text for chunk in chat.stream("Hello")]
    stop = pieces[1][-1] + pieces[2][:1]  # begins in one token and ends in the next
    expected = text.partition(stop)[0]
    answer = chat.invoke("Hello", stop=["never", stop])
    assert (answer.text, answer.response_metadata["finish_reason"]) == (expected, "stop")
    assert "".join(chunk.text for chunk in chat.stream("Hello", stop=[stop])) == expected


class Recorder(BaseCallbackHandler):
    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.chunks: list[Any] = []
        self.errors: list[BaseException] = []
        self.ends: list[LLMResult] = []

    def on_llm_new_token(self, token: str, *, chunk: Any = None, **_: Any) -> None:
        self.tokens.append(token)
        self.chunks.append(chunk)

    def on_llm_error(self, error: BaseException, **_: Any) -> None:
        self.errors.append(error)

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        self.ends.append(response)


async def test_callbacks_see_each_token_once(chat: ChatGrit) -> None:
    text = chat.invoke("Hello").text
    streaming = chat.model_copy(update={"streaming": True})
    for use in (
        lambda config: list(chat.stream("Hello", config)),
        lambda config: streaming.invoke("Hello", config),
        lambda config: chat.invoke("Hello", config, stream=True),
    ):
        recorder = Recorder()
        use({"callbacks": [recorder]})
        assert ("".join(recorder.tokens), len(recorder.ends)) == (text, 1)
        assert all(isinstance(chunk, ChatGenerationChunk) for chunk in recorder.chunks)
    recorder = Recorder()
    _ = [chunk async for chunk in chat.astream("Hello", {"callbacks": [recorder]})]
    assert "".join(recorder.tokens) == text
    recorder = Recorder()
    assert chat.invoke("Hello", {"callbacks": [recorder]}).text == text
    assert recorder.tokens == []


def test_a_token_is_announced_before_it_is_yielded(chat: ChatGrit) -> None:
    recorder = Recorder()
    manager = CallbackManagerForLLMRun.get_noop_manager()
    manager.handlers = [recorder]
    for count, chunk in enumerate(chat._stream([HumanMessage("Hello")], run_manager=manager), start=1):
        assert len(recorder.tokens) == count
        assert recorder.chunks[-1] is chunk


def test_usage_sums_over_calls(chat: ChatGrit, tiny: GritLM) -> None:
    usage = UsageMetadataCallbackHandler()
    answers = chat.batch(["Hello", "Hey"], {"callbacks": [usage]})
    list(chat.stream("Hello", {"callbacks": [usage]}))
    wanted = sum(answer.usage_metadata["total_tokens"] for answer in [*answers, answers[0]])
    assert usage.usage_metadata[tiny.source]["total_tokens"] == wanted


def test_the_profile_comes_from_the_config_and_loads_nothing(tiny: GritLM) -> None:
    chat = ChatGrit(model=tiny.source)
    assert chat.profile["max_input_tokens"] == tiny.window
    assert not chat.profile["tool_calling"]
    assert not chat.grit.is_loaded
    assert "max_input_tokens" not in ChatGrit(model="no-such/model").profile


def test_tools_are_refused_not_dropped(chat: ChatGrit) -> None:
    with pytest.raises(NotImplementedError):
        chat.bind_tools([])
    with pytest.raises(ValueError, match="'tools' is unknown"):
        chat.invoke("Hello", tools=[])


# Errors


def test_input_errors_come_before_work_and_reach_callbacks(chat: ChatGrit, tiny: GritLM) -> None:
    for use in (chat.invoke, lambda *args, **kwargs: list(chat.stream(*args, **kwargs))):
        recorder = Recorder()
        with pytest.raises(ContextOverflowError, match="4,096"):
            use("word " * 4090, {"callbacks": [recorder]})
        with pytest.raises(EmptyTextError):
            use(" ", {"callbacks": [recorder]})
        overflow, blank = recorder.errors
        assert isinstance(overflow, ContextOverflowError) and isinstance(blank, EmptyTextError)
    assert running(tiny) == 0


def test_an_error_in_mid_stream_reaches_the_reader(chat: ChatGrit, tiny: GritLM, monkeypatch: Any) -> None:
    recorder, seen = Recorder(), []
    with monkeypatch.context() as patch:
        break_at_step(patch, tiny, 3)
        with pytest.raises(RuntimeError, match="device lost"):
            seen.extend(chat.stream("Hello", {"callbacks": [recorder]}))
    assert (len(seen), len(recorder.errors)) == (2, 1)
    wait_until(lambda: running(tiny) == 0)
    assert chat.invoke("Hello").text  # the worker lives on


async def test_an_error_reaches_async_readers(chat: ChatGrit, tiny: GritLM, monkeypatch: Any) -> None:
    break_at_step(monkeypatch, tiny, 3)
    with pytest.raises(RuntimeError, match="device lost"):
        await chat.ainvoke("Hello")
    with pytest.raises(RuntimeError, match="device lost"):
        _ = [chunk async for chunk in chat.astream("Hello")]


# Stopping


def test_leaving_a_stream_early_stops_the_work(chat: ChatGrit, tiny: GritLM) -> None:
    for _ in chat.stream("Hello", **LONG):
        assert running(tiny) == 1
        break
    gc.collect()
    wait_until(lambda: running(tiny) == 0)
    stream = chat.stream("Hello", **LONG)
    next(stream)
    stream.close()
    wait_until(lambda: running(tiny) == 0)


async def test_leaving_an_async_stream_early_stops_the_work(chat: ChatGrit, tiny: GritLM) -> None:
    stream = chat.astream("Hello", **LONG)
    async for _ in stream:
        break
    await stream.aclose()
    await await_until(lambda: running(tiny) == 0)
    async for _ in chat.astream("Hello", **LONG):  # the loop's hooks close a stream that is only dropped
        break
    gc.collect()
    await await_until(lambda: running(tiny) == 0)


@pytest.mark.parametrize("method", ["ainvoke", "astream"])
async def test_cancelling_a_task_stops_the_work(chat: ChatGrit, tiny: GritLM, method: str) -> None:
    async def read() -> None:
        if method == "ainvoke":
            await chat.ainvoke("Hello", **LONG)
        else:
            _ = [chunk async for chunk in chat.astream("Hello", **LONG)]

    task = asyncio.create_task(read())
    await await_until(lambda: running(tiny) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await await_until(lambda: running(tiny) == 0)


@pytest.mark.parametrize("yields", range(4))
async def test_cancelling_before_the_first_token_leaves_nothing_behind(
    chat: ChatGrit, tiny: GritLM, yields: int
) -> None:
    task = asyncio.create_task(chat.ainvoke("Hello", **LONG))
    for _ in range(yields):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.2)  # a start that is under way in a thread still comes
    await await_until(lambda: running(tiny) == 0)


# Concurrency


class Ticker:
    """Measures how late the event loop gets to its own affairs."""

    def __init__(self) -> None:
        self.worst = 0.0

    async def __aenter__(self) -> Ticker:
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _tick(self) -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.005)
            self.worst = max(self.worst, time.perf_counter() - start - 0.005)


async def test_the_event_loop_stays_free_under_eight_calls(chat: ChatGrit) -> None:
    expected = chat.invoke("Hello").text
    for attempt in range(3):  # a blocked loop is late every time; a busy machine is not
        async with Ticker() as ticker:
            answers = await asyncio.gather(*(chat.ainvoke("Hello") for _ in range(8)))
        assert {answer.text for answer in answers} == {expected}
        if ticker.worst < 0.05:
            break
        assert attempt < 2, f"the event loop was {ticker.worst * 1000:.0f} ms late"


async def test_concurrent_streams_do_not_mix(chat: ChatGrit) -> None:
    prompts = ["Hello", "Hey", "Good morning", "Bye"]
    expected = [answer.text for answer in chat.batch(prompts)]

    async def read(prompt: str) -> str:
        return "".join([chunk.text async for chunk in chat.astream(prompt)])

    assert await asyncio.gather(*map(read, prompts)) == expected
    assert len(set(expected)) == 4


# Inside LangChain


async def test_events_carry_the_tokens(chat: ChatGrit) -> None:
    chain = ChatPromptTemplate.from_template("{word}") | chat | StrOutputParser()
    tokens = [
        event["data"]["chunk"].text
        async for event in chain.astream_events({"word": "Hello"}, version="v2")
        if event["event"] == "on_chat_model_stream"
    ]
    assert "".join(tokens) == chat.invoke("Hello").text
    assert len(tokens) > 3


def test_the_tutorials_chain_runs_unmodified(chat: ChatGrit, tiny: GritLM) -> None:
    store = InMemoryVectorStore.from_texts(["The heart pumps blood.", "Stars shine."], GritEmbeddings(model=tiny))
    prompt = ChatPromptTemplate.from_template("Context: {context}\n\nQuestion: {question}")
    seen: list[str] = []
    chain = (
        {
            "context": store.as_retriever() | (lambda documents: "\n\n".join(d.page_content for d in documents)),
            "question": RunnablePassthrough(),
        }
        | prompt
        | RunnablePassthrough(lambda value: seen.append(value.to_string()))
        | chat
        | StrOutputParser()
    )
    answer = chain.invoke("What pumps blood?")
    assert "The heart pumps blood." in seen[0]
    assert "".join(chain.stream("What pumps blood?")) == answer != ""


def test_an_agent_without_tools_answers_with_the_context_in_its_system_message(chat: ChatGrit) -> None:
    @dynamic_prompt
    def with_context(request: Any) -> str:
        return "Use this context:\n\nThe heart pumps blood."

    agent = create_agent(chat, tools=[], middleware=[with_context])
    messages = agent.invoke({"messages": [{"role": "user", "content": "What pumps blood?"}]})["messages"]
    prompt = [("system", "Use this context:\n\nThe heart pumps blood."), ("human", "What pumps blood?")]
    assert messages[-1].text == chat.invoke(prompt).text


def test_histories_are_trimmed_by_the_models_own_count(chat: ChatGrit) -> None:
    history = [HumanMessage(f"Question {n}: what is it?") for n in range(20)]
    kept = trim_messages(history, max_tokens=100, token_counter=chat, strategy="last")
    assert 0 < len(kept) < 20
    assert chat.get_num_tokens_from_messages(kept) <= 100
    assert chat.get_num_tokens_from_messages(history[-len(kept) - 1 :]) > 100


@pytest.mark.parametrize("cache", [None, InMemoryCache()])
async def test_a_lazy_model_is_opened_and_loaded_off_the_event_loop(
    tiny_path: Path, cache: InMemoryCache | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = ChatGrit(model=GritLM(tiny_path), max_tokens=1, cache=cache)
    threads: list[threading.Thread] = []
    for name in ("find_checkpoint", "shared_engine"):
        function = getattr(handle, name)

        def noting(*args: Any, function: Any = function, **options: Any) -> Any:
            threads.append(threading.current_thread())
            return function(*args, **options)

        monkeypatch.setattr(handle, name, noting)
    await chat.ainvoke("Hello")
    assert len(threads) == 2
    assert threading.main_thread() not in threads
