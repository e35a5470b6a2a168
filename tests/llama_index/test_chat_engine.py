"""GritChatEngine: conversations about documents that are read once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from endpoints import DOCUMENTS, QUESTION
from llama_index.core.llms import ChatMessage, MockLLM
from llama_index_helpers import Fixed, index_of, nodes_of

from grit_integrations import GritLM, OptionError
from grit_integrations.llama_index import (
    GritChatEngine,
    GritLLM,
    KVCacheEvent,
    install,
)

Fresh = Callable[..., GritLM]
KVEvents = Callable[[], list[KVCacheEvent]]
FIRST = "What pumps?"


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
