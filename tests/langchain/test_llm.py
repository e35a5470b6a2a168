"""GritLLM: text in, new text out, and batches that run together."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.prompts import PromptTemplate
from langchain_helpers import await_until, break_at_step, running, wait_until

from grit_integrations import ContextOverflowError, Decoding, EmptyTextError, GritLM, PromptError
from grit_integrations.langchain import GritLLM

PROMPTS = ["Hello", "Hey", "Good morning"]


def test_a_prompt_is_one_user_turn_and_only_new_text_comes_back(llm: GritLLM, tiny: GritLM) -> None:
    assert llm.invoke("Hello") == tiny.generate("Hello", decoding=Decoding(max_new_tokens=8)).text


async def test_batches_equal_single_calls(llm: GritLLM) -> None:
    expected = [llm.invoke(prompt) for prompt in PROMPTS]
    assert llm.batch(PROMPTS) == await llm.abatch(PROMPTS) == expected
    assert await asyncio.gather(*map(llm.ainvoke, PROMPTS)) == expected


def test_a_batch_runs_together(llm: GritLLM, tiny: GritLM, monkeypatch: Any) -> None:
    scheduler = tiny._loaded().scheduler
    together: list[int] = []
    advance = scheduler._advance
    monkeypatch.setattr(scheduler, "_advance", lambda lane: (together.append(running(tiny)), advance(lane))[1])
    llm.batch(PROMPTS)
    assert max(together) == 3


def test_results_tell_usage_and_reason(llm: GritLLM, tiny: GritLM) -> None:
    result = llm.generate(PROMPTS[:2], logprobs=True)
    infos = [generations[0].generation_info for generations in result.generations]
    assert [info["finish_reason"] for info in infos] == ["length"] * 2
    assert len(infos[0]["logprobs"]["content"]) == 8
    total = sum(info["token_usage"]["total_tokens"] for info in infos)
    assert result.llm_output["token_usage"]["total_tokens"] == total
    assert result.llm_output["model_name"] == tiny.source


async def test_streams_add_up(llm: GritLLM) -> None:
    text = llm.invoke("Hello")
    pieces = list(llm.stream("Hello"))
    assert len(pieces) > 3
    assert "".join(pieces) == text == "".join([piece async for piece in llm.astream("Hello")])
    chunks = list(llm._stream("Hello", logprobs=True))
    full = sum(chunks[1:], start=chunks[0])
    assert len(full.generation_info["logprobs"]["content"]) == 8
    assert full.generation_info["finish_reason"] == "length"
    twice = sum([*chunks[1:], *llm._stream("Hello")], start=chunks[0])
    assert twice.text == text * 2, "sums may go on over several answers"


async def test_stopping_and_errors(llm: GritLLM, tiny: GritLM, monkeypatch: Any) -> None:
    next(stream := llm.stream("Hello", max_tokens=2000))
    stream.close()
    wait_until(lambda: running(tiny) == 0)
    task = asyncio.create_task(llm.abatch(PROMPTS, max_tokens=2000))
    await await_until(lambda: running(tiny) == 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await await_until(lambda: running(tiny) == 0)
    with pytest.raises(ContextOverflowError):  # the first prompt is not left running for the second
        llm.batch(["Hello", "word " * 4090], max_tokens=2000)
    wait_until(lambda: running(tiny) == 0)
    break_at_step(monkeypatch, tiny, 3)
    with pytest.raises(RuntimeError, match="device lost"):
        list(llm.stream("Hello"))


BAD = [" ", "a\0b", "word " * 4100, 3]  # blank, unreadable, longer than the window, no prompt at all


async def test_one_bad_prompt_of_a_batch_fails_alone(llm: GritLLM) -> None:
    given: list[Any] = [PROMPTS[0], *BAD, PROMPTS[1]]
    first, second = llm.invoke(PROMPTS[0]), llm.invoke(PROMPTS[1])
    for config in (None, {"max_concurrency": 2}):
        for results in (
            llm.batch(given, config, return_exceptions=True),
            await llm.abatch(given, config, return_exceptions=True),
        ):
            assert (results[0], results[-1]) == (first, second)
            kinds = [type(result).__mro__ for result in results[1:-1]]
            wanted = (EmptyTextError, PromptError, ContextOverflowError, ValueError)
            assert all(error in kind for error, kind in zip(wanted, kinds, strict=True))
    with pytest.raises(EmptyTextError):
        llm.batch([*PROMPTS, " "])


async def test_a_fallback_answers_only_what_failed(llm: GritLLM) -> None:
    given, mine = [PROMPTS[0], " ", PROMPTS[1]], [llm.invoke(PROMPTS[0]), "other", llm.invoke(PROMPTS[1])]
    safe = llm.with_fallbacks([FakeListLLM(responses=["other"])])
    chain = PromptTemplate.from_template("{word}") | safe
    assert safe.batch(given) == await safe.abatch(given) == mine
    assert chain.batch([{"word": each} for each in given]) == mine


async def test_a_failing_prompt_ends_its_own_run_only(llm: GritLLM) -> None:
    ends = Counter[str]()

    class Counting(BaseCallbackHandler):
        def on_llm_end(self, *_: Any, **__: Any) -> None:
            ends["good"] += 1

        def on_llm_error(self, *_: Any, **__: Any) -> None:
            ends["bad"] += 1

    llm.batch(["Hello", " ", "Hey"], {"callbacks": [Counting()]}, return_exceptions=True)
    assert ends == {"good": 2, "bad": 1}


def test_it_chains(llm: GritLLM) -> None:
    assert (PromptTemplate.from_template("{word}") | llm).invoke({"word": "Hello"}) == llm.invoke("Hello")
