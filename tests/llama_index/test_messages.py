"""Histories that other providers began, and cache points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from endpoints import QUESTION, call, text_of
from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from llama_index.core.memory import ChatMemoryBuffer
from llama_index_helpers import index_of

from grit_integrations import Decoding, GritLM, PromptError
from grit_integrations.llama_index import GritChatEngine, GritLLM

Prompts = list[tuple[list[int], Decoding]]
Fresh = Callable[..., GritLM]

POINT = CachePoint(cache_control=CacheControl(type="ephemeral"))
RULES = "Answer from what you know of the human body, in one sentence, and say so where you are not certain."
CITATION = CitationBlock(
    cited_content=TextBlock(text="It beats."), source="a book", title="Hearts", additional_location_info={}
)
PICTURES = [ImageBlock(image=b"x"), AudioBlock(audio=b"x"), VideoBlock(video=b"x"), DocumentBlock(data=b"x")]
LEFT_BEHIND = [
    ThinkingBlock(content="Hm."),
    ToolCallBlock(tool_name="f", tool_kwargs={"x": 1}, tool_call_id="1"),
    CITATION,
    CitableBlock(title="t", source="s", content=[TextBlock(text="Another's words.")]),
    POINT,
    *PICTURES,
]


def user(*blocks: Any) -> ChatMessage:
    return ChatMessage(role="user", blocks=list(blocks))


def conversation(*left: Any) -> list[ChatMessage]:
    answer = ChatMessage(role="assistant", blocks=[*left, TextBlock(text="The heart does."), *left])
    return [user(TextBlock(text="What pumps blood?")), answer, user(TextBlock(text="And where to?"))]


@pytest.fixture
def llm(tiny: GritLM) -> GritLLM:
    return GritLLM(tiny, max_new_tokens=2)


@pytest.mark.parametrize("block", LEFT_BEHIND, ids=lambda block: block.block_type)
def test_of_an_assistants_turn_the_text_is_read(llm: GritLLM, prompts: Prompts, block: Any) -> None:
    llm.chat(conversation())
    llm.chat(conversation(block))
    assert prompts[0] == prompts[1]


def test_a_turn_that_only_called_a_tool_is_passed_over(llm: GritLLM, prompts: Prompts) -> None:
    called = ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_name="f", tool_kwargs={})])
    told = ChatMessage(role="tool", content="22 degrees", additional_kwargs={"tool_call_id": "1"})
    llm.chat([user(TextBlock(text="How warm is it?")), called, told])
    llm.chat([user(TextBlock(text="How warm is it?\n\n22 degrees"))])
    assert prompts[0] == prompts[1]


def test_memories_with_anothers_turns_go_on(llm: GritLLM) -> None:
    memory = ChatMemoryBuffer.from_defaults(chat_history=conversation(*LEFT_BEHIND)[:2], token_limit=1000)
    engine = GritChatEngine.from_defaults(index_of(llm.grit).as_retriever(), llm, memory=memory)
    engine.chat(QUESTION)
    assert len(engine.chat_history) == 4


@pytest.mark.parametrize("role", ["user", "tool", "system"])
@pytest.mark.parametrize("block", [*PICTURES, *LEFT_BEHIND[:2]], ids=lambda block: block.block_type)
def test_what_a_user_shows_has_to_be_text(llm: GritLLM, prompts: Prompts, role: str, block: Any) -> None:
    with pytest.raises(PromptError, match=rf"Message 1 .*'{block.block_type}'.*TextBlock"):
        llm.chat([user(TextBlock(text="Look.")), ChatMessage(role=role, blocks=[TextBlock(text="See?"), block])])
    assert prompts == []


@pytest.mark.parametrize("block", [ImageBlock(image=b"x"), DocumentBlock(data=b"x")], ids=lambda b: b.block_type)
def test_what_is_cited_has_to_be_text(llm: GritLLM, prompts: Prompts, block: Any) -> None:
    with pytest.raises(PromptError, match=rf"Message 0 .*'{block.block_type}'.*TextBlock"):
        llm.chat([user(CitableBlock(title="t", source="s", content=[block]), TextBlock(text="What is this?"))])
    assert prompts == []


def test_citable_text_is_read(llm: GritLLM, prompts: Prompts) -> None:
    citable = CitableBlock(title="Hearts", source="a book", content=[TextBlock(text="The heart pumps blood.")])
    llm.chat([user(citable, TextBlock(text="What pumps?"))])
    llm.chat([user(TextBlock(text="The heart pumps blood.\nWhat pumps?"))])
    assert prompts[0] == prompts[1]


@pytest.mark.parametrize("messages", ["Hello", ["Hello"], [{"role": "user", "content": "Hello"}]])
def test_what_is_no_message_is_refused(llm: GritLLM, prompts: Prompts, messages: Any) -> None:
    with pytest.raises(ValueError, match=r"ChatMessage|list"):  # the framework's events refuse some of it first
        llm.chat(messages)
    with pytest.raises(PromptError, match="generator"):  # which the framework's events have used up
        llm.chat(message for message in conversation())
    assert prompts == []


# Cache points


@pytest.mark.parametrize("endpoint", ["chat", "stream_chat", "achat", "astream_chat"])
async def test_what_stands_before_a_cache_point_is_read_once(fresh: Fresh, endpoint: str) -> None:
    llm = GritLLM(fresh(), max_new_tokens=8)

    async def last(question: str, **options: Any) -> Any:
        rules = ChatMessage(role="system", blocks=[TextBlock(text=RULES), POINT])
        return (await call(llm, endpoint, [rules, user(TextBlock(text=question))], **options))[-1]

    first, second = await last("What pumps blood?"), await last(QUESTION)
    assert first.raw["usage"]["cache_read_tokens"] == 0
    assert second.raw["usage"]["cache_read_tokens"] >= llm.grit.count_tokens(RULES)
    missed = await last(QUESTION, caching="off")
    assert text_of(second) == text_of(missed), "a hit changes no answer"


@pytest.mark.parametrize(
    "messages",
    [
        [user(TextBlock(text=RULES), POINT, TextBlock(text="{question}"))],
        [user(TextBlock(text=RULES)), user(POINT, TextBlock(text="{question}"))],
        [user(TextBlock(text=RULES)), user(POINT), user(TextBlock(text="{question}"))],
        [user(TextBlock(text="Hello.")), user(TextBlock(text=RULES), POINT), user(TextBlock(text="{question}"))],
    ],
    ids=["within", "begins", "alone", "ends"],
)
@pytest.mark.parametrize("mode", ["prefix", "doc", "query", "query-doc", "doc-query", "off"])
def test_cache_points_stand_anywhere(fresh: Fresh, prompts: Prompts, messages: list[ChatMessage], mode: str) -> None:
    def asked(question: str, *, points: bool = True) -> list[ChatMessage]:
        blocks = [[b for b in message.blocks if points or b != POINT] for message in messages]
        filled = [
            [TextBlock(text=b.text.format(question=question)) if isinstance(b, TextBlock) else b for b in some]
            for some in blocks
        ]
        return [user(*some) for some in filled]

    llm = GritLLM(fresh(caching=mode), max_new_tokens=2)
    llm.chat(asked("What pumps blood?"))
    usage = llm.chat(asked(QUESTION)).raw["usage"]
    llm.chat(asked(QUESTION, points=False))
    assert prompts[1] == prompts[2], "no token differs"
    assert (usage["cache_read_tokens"] >= llm.grit.count_tokens(RULES)) == (mode == "prefix")
