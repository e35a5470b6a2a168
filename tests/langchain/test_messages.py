"""Every shape of LangChain message becomes a turn, or an error that names what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from grit_integrations import GritLM, Message, PromptError
from grit_integrations.langchain import ChatGrit
from grit_integrations.langchain.messages import as_turns
from grit_integrations.options import CACHINGS

CALL = {"name": "search", "args": {"query": "heart"}, "id": "1", "type": "tool_call"}


@pytest.mark.parametrize(
    ("message", "role", "content"),
    [
        (SystemMessage("Be brief."), "system", "Be brief."),
        (HumanMessage("Hello"), "user", "Hello"),
        (HumanMessage("Hello", name="Ada"), "user", "Ada: Hello"),
        (AIMessage("Hi", name="agent"), "assistant", "Hi"),
        (AIMessageChunk(content="Hi"), "assistant", "Hi"),
        (AIMessage("", tool_calls=[CALL]), "assistant", ""),
        (ToolMessage("Found.", tool_call_id="1", name="search"), "user", "Result of the tool search:\nFound."),
        (ToolMessage("Found.", tool_call_id="1"), "user", "Result of a tool:\nFound."),
        (ToolMessage("", tool_call_id="1", name="search"), "user", ""),
        (ToolMessage("No.", tool_call_id="1", name="f", status="error"), "user", "Error from the tool f:\nNo."),
        (FunctionMessage("Found.", name="search"), "user", "Result of the tool search:\nFound."),
        (ChatMessage("Be brief.", role="developer"), "system", "Be brief."),
        (ChatMessage("Hi", role="Assistant"), "assistant", "Hi"),
        (HumanMessage(["one", {"type": "text", "text": "two"}]), "user", "one\ntwo"),
        (HumanMessage([{"type": "text-plain", "text": "A file.", "mime_type": "text/plain"}]), "user", "A file."),
        (HumanMessage([]), "user", ""),
        (
            AIMessage([{"type": "text", "text": "One sent"}, {"type": "text", "text": "ence."}]),
            "assistant",
            "One sentence.",
        ),
        (AIMessage([{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Hi"}]), "assistant", "Hi"),
        (AIMessage([{"type": "text", "text": "Hm"}, {"type": "tool_use", "id": "1"}]), "assistant", "Hm"),
        (
            HumanMessage(
                [{"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "Found."}]}]
            ),
            "user",
            "Found.",
        ),
    ],
)
def test_a_message_becomes_a_turn(message: BaseMessage, role: Any, content: str) -> None:
    before = message.model_copy(deep=True)
    assert as_turns([message]) == [Message(role, content)]
    assert message == before


TEXT = {"type": "text", "text": "The heart does."}
LEFT_BEHIND: dict[str, list[Any]] = {
    "OpenAI, search": [{"type": "web_search_call", "id": "w", "status": "completed"}, TEXT],
    "OpenAI, code": [{"type": "code_interpreter_call", "code": "1"}, {"type": "output_text", "text": TEXT["text"]}],
    "OpenAI, an image it made": [{"type": "image_generation_call", "result": "iVBOR"}, TEXT],
    "Anthropic, search": [
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "text", "text": "A page."}]},
        TEXT,
    ],
    "Anthropic, MCP": [{"type": "mcp_tool_result", "content": [{"type": "text", "text": "A page."}]}, TEXT],
    "Anthropic, a tool's result": [{"type": "tool_result", "content": "A page."}, TEXT],
    "Google, code": [{"type": "executable_code", "executable_code": "1"}, TEXT],
    "Bedrock": [{"reasoning_content": {"text": "Hm."}}, {"text": TEXT["text"]}, {"cachePoint": {"type": "default"}}],
    "LangChain": [
        *({"type": kind, "id": "1"} for kind in ("reasoning", "server_tool_call", "server_tool_result", "tool_call")),
        {"type": "non_standard", "value": {"type": "text", "text": "Not this."}},
        {"type": "image", "url": "https://example.org/x.png"},
        {"type": "text", "text": None},
        TEXT,
    ],
}


@pytest.mark.parametrize("provider", LEFT_BEHIND)
def test_of_an_assistants_turn_the_text_is_read_whoever_wrote_it(provider: str, chat: ChatGrit) -> None:
    for turn in (AIMessage(LEFT_BEHIND[provider]), ChatMessage(LEFT_BEHIND[provider], role="assistant")):
        assert as_turns([turn]) == [Message("assistant", "The heart does.")]
        thread = [HumanMessage("What pumps blood?"), turn, HumanMessage("And where to?")]
        assert chat.invoke(thread, max_tokens=1).usage_metadata["output_tokens"] == 1


@pytest.mark.parametrize("kind", ["web_search_call", "non_standard", "image", "reasoning"])
def test_what_users_and_tools_show_is_never_passed_over(kind: str) -> None:
    for strict in (HumanMessage, SystemMessage, lambda blocks: ToolMessage(blocks, tool_call_id="1")):
        with pytest.raises(PromptError, match=f"block of type {kind!r}"):
            as_turns([strict([TEXT, {"type": kind}])])


@pytest.mark.parametrize("kind", ["image_url", "image", "audio", "file", "thinking", None])
def test_blocks_that_are_not_text_are_named(kind: str | None) -> None:
    message = HumanMessage([{"type": "text", "text": "Look:"}, {"type": kind, "url": "https://example.org/x.png"}])
    with pytest.raises(PromptError, match=f"Message 1 has a block of type {kind!r}.*reads text only"):
        as_turns([HumanMessage("Hello"), message])


def test_an_image_is_refused_through_the_whole_model(chat: ChatGrit) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}
    with pytest.raises(PromptError, match="reads text only"):
        chat.invoke([HumanMessage([{"type": "text", "text": "What is this?"}, image])])


def test_messages_that_are_no_turns_are_named() -> None:
    with pytest.raises(PromptError, match="Message 0 has the role 'narrator'"):
        as_turns([ChatMessage("Once", role="narrator")])
    with pytest.raises(PromptError, match="Message 0 is a RemoveMessage"):
        as_turns([RemoveMessage(id="1")])


@pytest.mark.parametrize(
    "messages",
    [
        [AIMessage("Hi")],
        [SystemMessage("Be brief.")],
        [SystemMessage("a"), SystemMessage("b"), HumanMessage("c"), HumanMessage("d"), AIMessage("e"), AIMessage("f")],
        [HumanMessage("a"), SystemMessage("b"), AIMessage("c")],
        [HumanMessage("a"), AIMessage("", tool_calls=[CALL]), ToolMessage("Found.", tool_call_id="1")],
        [ToolMessage("Found.", tool_call_id="1"), HumanMessage("a")],
    ],
)
def test_any_order_of_roles_is_answered(chat: ChatGrit, messages: list[BaseMessage]) -> None:
    assert chat.invoke(messages, max_tokens=1).usage_metadata["output_tokens"] == 1


def test_list_content_is_the_same_prompt_as_a_string(chat: ChatGrit) -> None:
    blocks = [HumanMessage([{"type": "text", "text": "Hello"}])]
    assert chat.invoke(blocks).text == chat.invoke("Hello").text == chat.invoke([("human", "Hello")]).text


def test_whole_prompts_are_counted(chat: ChatGrit, tiny: GritLM) -> None:
    messages = [SystemMessage("Be brief."), HumanMessage("Hello")]
    assert chat.get_num_tokens_from_messages(messages) == tiny.count_message_tokens(as_turns(messages))
    assert chat.get_num_tokens_from_messages(messages) == chat.invoke(messages).usage_metadata["input_tokens"]
    assert chat.get_num_tokens_from_messages([]) == 0
    assert chat.get_num_tokens_from_messages([HumanMessage(" ")]) == 0


@pytest.mark.parametrize("caching", [None, *CACHINGS])
def test_what_is_counted_is_what_is_sent(tiny: GritLM, caching: Any) -> None:
    chat = ChatGrit(model=tiny, caching=caching, max_tokens=1)
    page = Document("The heart is a muscle that pumps blood through the vessels of the body, all life long.")
    threads: list[list[BaseMessage]] = [
        [HumanMessage("Hello")],
        [AIMessage(LEFT_BEHIND["LangChain"]), HumanMessage("Hello 😀 </s> <|user|>")],
        [
            HumanMessage("What pumps blood?"),
            AIMessage("", tool_calls=[CALL]),
            ToolMessage(f"Source: heart\n\n{page.page_content}", tool_call_id="1", artifact=[page]),
        ],
    ]
    for thread in threads:
        assert chat.get_num_tokens_from_messages(thread) == chat.invoke(thread).usage_metadata["input_tokens"]
