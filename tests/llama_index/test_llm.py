"""GritLLM against what the framework expects of a language model."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from endpoints import HELLO, call, every_endpoint, every_stream, text_of
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.base.llms.types import DocumentBlock, ImageBlock, TextBlock
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler, TokenCountingHandler
from llama_index.core.callbacks.schema import CBEventType
from llama_index.core.llms import LLM, ChatMessage, MessageRole
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate
from llama_index_helpers import wait_until_idle
from pacemaker import assert_loop_stays_free

from grit_integrations import ContextOverflowError, Decoding, EmptyTextError, GritLM, OptionError, PromptError
from grit_integrations.llama_index import GritLLM

Prompts = list[tuple[list[int], Decoding]]
TOKENS = 5


@pytest.fixture
def llm(tiny: GritLM) -> GritLLM:
    return GritLLM(tiny, max_new_tokens=TOKENS)


# What it is


def test_is_a_language_model() -> None:
    assert BaseLLM in GritLLM.__mro__
    assert LLM in GritLLM.__mro__
    assert GritLLM.class_name() == "GritLLM"


def test_metadata_is_true_and_reads_no_weights(tiny_path: Path) -> None:
    llm = GritLLM(tiny_path, max_new_tokens=32)
    metadata = llm.metadata
    assert metadata.context_window == 4096
    assert 32 < metadata.num_output < 128, "the answer and the turn markers"
    assert (metadata.is_chat_model, metadata.is_function_calling_model) == (True, False)
    assert metadata.model_name == str(tiny_path)
    assert not llm.grit.is_loaded


def test_from_dict_round_trips(tiny: GritLM, tiny_path: Path) -> None:
    first = GritLLM(tiny_path, max_new_tokens=8, stop=["x", "y"], temperature=0.5, seed=3, system_prompt="Be brief.")
    again = GritLLM.from_json(first.to_json())
    assert again.to_dict() == first.to_dict() == GritLLM.from_dict(first.to_dict()).to_dict()
    assert again.complete("hello").text == first.complete("hello").text
    assert GritLLM.from_dict(first.to_dict(), model=tiny).grit is tiny


def test_naming_a_model_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIT_MODEL", "some/where")
    assert GritLLM().to_dict()["model_name"] == "some/where"
    assert GritLLM().to_payload()["model_name"] == "some/where"
    monkeypatch.delenv("GRIT_MODEL")
    assert not GritLLM().grit.is_loaded
    assert GritLLM().model_name == "grit-mini"


def test_pickling_reloads_lazily(llm: GritLLM) -> None:
    copy = pickle.loads(pickle.dumps(llm))
    assert not copy.grit.is_loaded
    assert copy.complete("hello").text == llm.complete("hello").text


# Responses


@every_endpoint
async def test_endpoints_agree_with_the_model(llm: GritLLM, tiny: GritLM, endpoint: str) -> None:
    wanted = tiny.generate("Say hello.", decoding=Decoding(max_new_tokens=TOKENS))
    last = (await call(llm, endpoint))[-1]
    assert text_of(last) == wanted.text
    assert last.raw["finish_reason"] == wanted.finish_reason == "length"
    usage = last.raw["usage"]
    assert usage["prompt_tokens"] == wanted.usage.prompt_tokens
    assert usage["completion_tokens"] == TOKENS
    assert usage["total_tokens"] == usage["prompt_tokens"] + TOKENS
    assert last.raw["model"] == llm.model_name
    assert set(last.raw["timings"]) == {"queue", "load", "prefill", "time_to_first_token", "decode"}


@every_endpoint
async def test_responses_are_json(llm: GritLLM, endpoint: str) -> None:
    for response in await call(llm, endpoint, logprobs=1):
        assert type(response).model_validate_json(response.model_dump_json()) == response


@every_stream
async def test_streams_are_cumulative(llm: GritLLM, endpoint: str) -> None:
    pieces = await call(llm, endpoint)
    so_far = ""
    for piece in pieces:
        so_far += piece.delta
        assert text_of(piece) == so_far
    assert len(pieces) > 3
    assert [piece.raw for piece in pieces[:-1]] == [None] * (len(pieces) - 1)


@every_endpoint
async def test_logprobs_are_one_list_a_token(llm: GritLLM, endpoint: str) -> None:
    responses = await call(llm, endpoint, logprobs=2)
    tokens = [token for response in responses for token in response.logprobs]
    assert len(tokens) == TOKENS
    assert all(len(token) == 3 and token[0].logprob <= 0 for token in tokens)
    assert (await call(llm, endpoint))[0].logprobs is None


def test_str_of_a_response_is_its_text(llm: GritLLM) -> None:
    assert str(llm.complete("hello")) == llm.complete("hello").text
    assert str(llm.chat(HELLO)).startswith("assistant: ")


# Options


@every_endpoint
async def test_options_of_one_call_are_honoured(llm: GritLLM, prompts: Prompts, endpoint: str) -> None:
    sampled = {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "seed": 1, "repetition_penalty": 1.1}
    last = (await call(llm, endpoint, max_tokens=3, stop=["##"], **sampled))[-1]
    assert last.raw["usage"]["completion_tokens"] == 3
    assert prompts[-1][1] == Decoding(max_new_tokens=3, stop=("##",), **sampled)
    await call(llm, endpoint, max_new_tokens=2, temperature=None)
    assert prompts[-1][1] == Decoding(max_new_tokens=2)


@every_endpoint
async def test_unknown_options_are_refused_before_work(llm: GritLLM, prompts: Prompts, endpoint: str) -> None:
    with pytest.raises(OptionError, match="Did you mean 'temperature'"):
        await call(llm, endpoint, temprature=1)
    with pytest.raises(OptionError, match="temperature=-1"):
        await call(llm, endpoint, temperature=-1)
    assert prompts == []


def test_options_of_the_object_are_checked_and_settable(llm: GritLLM, prompts: Prompts) -> None:
    with pytest.raises(OptionError, match="max_new_tokens=0"):
        GritLLM(llm.grit, max_new_tokens=0)
    with pytest.raises(OptionError, match="Did you mean 'max_new_tokens'"):
        GritLLM(llm.grit, max_new_token=4)
    with pytest.raises(OptionError, match="beside a GritLM"):
        GritLLM(llm.grit, dtype="float16")
    llm.max_new_tokens = 2
    llm.complete("hello")
    assert prompts[-1][1].max_new_tokens == 2


def test_stop_strings_end_the_text(llm: GritLLM) -> None:
    text = llm.complete("Say hello.").text
    stop = text[len(text) // 2 :][:3]
    stopped = llm.complete("Say hello.", stop=stop)
    assert stopped.text == text[: text.index(stop)]
    assert stopped.raw["finish_reason"] == "stop"
    assert list(llm.stream_complete("Say hello.", stop=[stop]))[-1].text == stopped.text


def test_seed_makes_sampling_repeatable(llm: GritLLM) -> None:
    one, same, other = (llm.complete("hello", temperature=1.0, seed=seed).text for seed in (1, 1, 2))
    assert one == same != other


# Prompts


@every_endpoint
async def test_prompts_have_one_bos_and_the_models_format(
    llm: GritLLM, tiny: GritLM, prompts: Prompts, endpoint: str
) -> None:
    await call(llm, endpoint, "<s>[INST] hello </s><|assistant|>\n")
    ids = prompts[-1][0]
    assert ids.count(1) == 1
    assert ids[0] == 1
    assert 2 not in ids, "a text cannot end the prompt"
    assert ids[1:7] == [523, 28766, 1838, 28766, 28767, 13]


@every_endpoint
async def test_system_prompt_comes_once(tiny: GritLM, prompts: Prompts, endpoint: str) -> None:
    llm = GritLLM(tiny, max_new_tokens=1, system_prompt="Answer in French.")
    await call(llm, endpoint)
    wanted = GritLLM(tiny, max_new_tokens=1)
    await call(wanted, endpoint, "Answer in French.\n\nSay hello.")
    assert prompts[0] == prompts[1]


async def test_system_prompt_comes_once_through_predict(tiny: GritLM, prompts: Prompts) -> None:
    llm = GritLLM(tiny, max_new_tokens=1, system_prompt="Answer in French.")
    llm.complete("Say hello.")
    template = PromptTemplate("Say {word}.")
    llm.predict(template, word="hello")
    list(llm.stream(template, word="hello"))
    await llm.apredict(template, word="hello")
    _ = [token async for token in await llm.astream(template, word="hello")]
    llm.complete("Answer in French.\n\nSay hello.", formatted=True)
    llm.chat([ChatMessage(role="system", content="Answer in French."), *HELLO])
    assert prompts == prompts[:1] * 7


def test_every_role_is_read(llm: GritLLM, tiny: GritLM, prompts: Prompts) -> None:
    conversation = [
        ChatMessage(role=MessageRole.DEVELOPER, content="Be brief."),
        ChatMessage(role=MessageRole.CHATBOT, content="Hello!"),
        ChatMessage(role=MessageRole.TOOL, content="22 degrees", additional_kwargs={"tool_call_id": "1"}),
        ChatMessage(role=MessageRole.FUNCTION, content="sunny"),
        ChatMessage(role=MessageRole.MODEL, content=None),
        ChatMessage(role=MessageRole.USER, content=[TextBlock(text="And"), TextBlock(text="now?")]),
    ]
    llm.chat(conversation)
    roles = ("system", "assistant", "user", "user", "user")
    texts = ("Be brief.", "Hello!", "22 degrees", "sunny", "And\nnow?")
    tiny.generate(
        [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)],
        decoding=Decoding(max_new_tokens=1),
    )
    assert prompts[0][0] == prompts[1][0]


@pytest.mark.parametrize("block", [ImageBlock(image=b"x"), DocumentBlock(data=b"x")])
def test_blocks_other_than_text_are_refused(llm: GritLLM, prompts: Prompts, block: Any) -> None:
    with pytest.raises(PromptError, match=rf"Message 1 .*'{block.block_type}'"):
        llm.chat([*HELLO, ChatMessage(role="user", content=[TextBlock(text="What is this?"), block])])
    assert prompts == []


@every_endpoint
async def test_prompts_that_cannot_be_are_refused(llm: GritLLM, prompts: Prompts, endpoint: str) -> None:
    with pytest.raises(EmptyTextError):
        await call(llm, endpoint, "  ")
    with pytest.raises(PromptError, match="NUL"):
        await call(llm, endpoint, "a\x00b")
    with pytest.raises(ContextOverflowError, match="4,0"):
        await call(llm, endpoint, "word " * 4090)
    assert prompts == []


def test_messages_of_the_caller_stay_as_they_are(tiny: GritLM) -> None:
    messages = [ChatMessage(role="user", content="hi")]
    GritLLM(tiny, max_new_tokens=1, system_prompt="Be brief.").chat(messages)
    assert messages == [ChatMessage(role="user", content="hi")]


def test_predict_takes_templates(llm: GritLLM) -> None:
    assert llm.predict(PromptTemplate("Say {word}."), word="hello") == llm.complete("Say hello.").text
    chat = ChatPromptTemplate([ChatMessage(role="system", content="{tone}"), *HELLO])
    assert llm.predict(chat, tone="Be kind.") == llm.complete("Be kind.\n\nSay hello.").text
    assert "".join(llm.stream(chat, tone="Be kind.")) == llm.predict(chat, tone="Be kind.")


# Events


@every_endpoint
async def test_events_come_once(tiny: GritLM, events: Callable[[], list[str]], endpoint: str) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    llm = GritLLM(tiny, max_new_tokens=4, callback_manager=CallbackManager([debug]))
    pieces = await call(llm, endpoint)
    kind = "LLMChat" if endpoint.endswith("chat") else "LLMCompletion"
    progress = [f"{kind}InProgressEvent"] * len(pieces) if "stream" in endpoint else []
    seen = events()
    assert seen.count("KVCacheEvent") == 1
    assert seen.index("KVCacheEvent") == len(seen) - (3 if progress else 2), "when the generation has ended"
    seen.remove("KVCacheEvent")
    assert seen == [f"{kind}StartEvent", *progress, f"{kind}EndEvent"]
    assert len(debug.get_event_pairs(CBEventType.LLM)) == 1


@every_endpoint
async def test_token_counter_sees_the_true_usage(tiny: GritLM, endpoint: str) -> None:
    counter = TokenCountingHandler(tokenizer=lambda _: [0] * 1000)
    llm = GritLLM(tiny, max_new_tokens=4, callback_manager=CallbackManager([counter]))
    usage = (await call(llm, endpoint))[-1].raw["usage"]
    assert counter.prompt_llm_token_count == usage["prompt_tokens"]
    assert counter.completion_llm_token_count == usage["completion_tokens"] == 4


# Async, errors, early ends


@pytest.mark.parametrize("endpoint", ["achat", "acomplete", "astream_chat", "astream_complete"])
async def test_async_leaves_the_loop_free(llm: GritLLM, endpoint: str) -> None:
    text, options = "word " * 3000, {"max_new_tokens": 16}
    await assert_loop_stays_free(
        lambda: asyncio.gather(*(call(llm, endpoint, text, **options) for _ in range(3))), least=0.1
    )


@every_endpoint
async def test_errors_reach_the_caller(llm: GritLLM, broken_decoder: None, endpoint: str) -> None:
    with pytest.raises(RuntimeError, match="the device is gone"):
        await asyncio.wait_for(call(llm, endpoint), timeout=20)


@pytest.mark.usefixtures("broken_decoder")
def test_what_came_before_an_error_is_seen(llm: GritLLM, running: Callable[[], int]) -> None:
    stream = llm.stream_complete("Say hello.")
    assert next(stream).text
    assert next(stream).text
    with pytest.raises(RuntimeError, match="the device is gone"):
        next(stream)
    assert running() == 0


@pytest.mark.parametrize("endpoint", ["stream_chat", "stream_complete"])
def test_closing_a_stream_stops_the_work(llm: GritLLM, running: Callable[[], int], endpoint: str) -> None:
    stream = getattr(llm, endpoint)(HELLO if endpoint == "stream_chat" else "hello", max_new_tokens=3000)
    next(stream)
    assert running() == 1
    stream.close()
    wait_until_idle(running)


def test_dropping_a_stream_stops_the_work(llm: GritLLM, running: Callable[[], int]) -> None:
    for _ in llm.stream_complete("hello", max_new_tokens=3000):
        break
    wait_until_idle(running)
    llm.stream_chat(HELLO, max_new_tokens=3000)
    wait_until_idle(running)


@pytest.mark.parametrize("endpoint", ["astream_chat", "astream_complete"])
async def test_closing_an_async_stream_stops_the_work(llm: GritLLM, running: Callable[[], int], endpoint: str) -> None:
    argument = HELLO if endpoint == "astream_chat" else "hello"
    stream = await getattr(llm, endpoint)(argument, max_new_tokens=3000)
    await anext(stream)
    assert running() == 1
    await stream.aclose()
    await asyncio.sleep(0)  # the framework's wrapper leaves the inner generator to the loop
    await asyncio.to_thread(wait_until_idle, running)


async def test_cancelling_a_task_stops_the_work(llm: GritLLM, running: Callable[[], int]) -> None:
    task = asyncio.create_task(llm.achat(HELLO, max_new_tokens=3000))
    while not running():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(wait_until_idle, running)


async def test_concurrent_calls_get_their_own_answers(llm: GritLLM) -> None:
    llm.max_new_tokens = 4
    questions = [f"Question {index}?" for index in range(8)]
    wanted = [llm.complete(question).text for question in questions]
    found = await asyncio.gather(*(llm.acomplete(question) for question in questions))
    assert [response.text for response in found] == wanted
    with ThreadPoolExecutor(6) as pool:
        streamed = pool.map(lambda question: list(llm.stream_complete(question))[-1].text, questions)
        assert list(streamed) == wanted
