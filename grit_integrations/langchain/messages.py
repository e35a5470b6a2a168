"""LangChain messages to GritLM's turns.

| LangChain | turn |
|---|---|
| `SystemMessage`, `ChatMessage(role="developer")` | system; the core folds it into the next user turn |
| `HumanMessage` | user, with `name: ` in front if it has a name |
| `AIMessage` | assistant; its calls of tools are left out, what they returned follows in user turns |
| `ToolMessage`, `FunctionMessage` | user, introduced as the result of its tool |

Any order of roles is accepted: the core merges neighbours and drops blank turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from grit_integrations.errors import PromptError
from grit_integrations.prompts.formats import Message, Role

_TEXT_BLOCKS = frozenset({"text", "input_text", "output_text", "text-plain"})
# What other models leave in their turns beside text: not for the next reader.
_INNER_BLOCKS = frozenset(
    {
        *("reasoning", "thinking", "redacted_thinking"),
        *("tool_use", "tool_call", "tool_call_chunk", "invalid_tool_call", "function_call"),
        *("server_tool_use", "server_tool_call", "server_tool_call_chunk", "server_tool_result"),
    }
)
_CHAT_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
}


def as_turns(messages: Sequence[BaseMessage]) -> list[Message]:
    """Return the turns of a conversation.

    Raises:
        PromptError: a block that is not text, an unknown role, or a message that is no turn; it names the message.
    """
    return [_as_turn(message, f"Message {index}") for index, message in enumerate(messages)]


def _as_turn(message: BaseMessage, where: str) -> Message:
    role = _role(message, where)
    text = _text(message, where)
    return Message(role, _introduced(message, text) if text.strip() else text)


def _role(message: BaseMessage, where: str) -> Role:
    if isinstance(message, ChatMessage):
        if message.role.lower() not in _CHAT_ROLES:
            raise PromptError(f"{where} has the role {message.role!r}. Use one of {', '.join(_CHAT_ROLES)}.")
        return _CHAT_ROLES[message.role.lower()]
    if isinstance(message, SystemMessage):
        return "system"
    if isinstance(message, AIMessage):
        return "assistant"
    if isinstance(message, (HumanMessage, ToolMessage, FunctionMessage)):
        return "user"
    raise PromptError(f"{where} is a {type(message).__name__}, which is no turn of a conversation. Remove it.")


def _introduced(message: BaseMessage, text: str) -> str:
    """Say whose words a user turn holds where they are not the user's."""
    if isinstance(message, (ToolMessage, FunctionMessage)):
        failed = isinstance(message, ToolMessage) and message.status == "error"
        tool = f"the tool {message.name}" if message.name else "a tool"
        return f"{'Error from' if failed else 'Result of'} {tool}:\n{text}"
    if isinstance(message, HumanMessage) and message.name:
        return f"{message.name}: {text}"
    return text


def _text(message: BaseMessage, where: str) -> str:
    # Another model's text may be cut into blocks within a sentence; everybody else's blocks are paragraphs.
    separator = "" if isinstance(message, AIMessage) else "\n"
    return separator.join(_texts(message.content, where, inner=isinstance(message, AIMessage)))


def _texts(content: Any, where: str, *, inner: bool) -> Iterator[str]:
    """Yield the text of each block. Blocks in `_INNER_BLOCKS` are passed over if `inner`."""
    if isinstance(content, str):
        yield content
        return
    for block in content or ():
        if isinstance(block, str):
            yield block
            continue
        kind = block.get("type")
        if kind in _TEXT_BLOCKS and isinstance(block.get("text"), str):
            yield block["text"]
        elif kind == "tool_result":  # Anthropic's shape of a ToolMessage
            yield from _texts(block.get("content"), where, inner=inner)
        elif not (inner and kind in _INNER_BLOCKS):
            raise PromptError(
                f"{where} has a block of type {kind!r}. This model reads text only: leave the block out, or put what "
                "it shows into words."
            )
