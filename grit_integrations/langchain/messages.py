"""LangChain messages to GritLM's turns.

| LangChain | turn |
|---|---|
| `SystemMessage`, `ChatMessage(role="developer")` | system; the core folds it into the next user turn |
| `HumanMessage` | user, with `name: ` in front if it has a name |
| `AIMessage` | assistant; its text, whatever else another provider left there: tools' results follow in user turns |
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
    if role == "assistant":
        return Message(role, "".join(_said(message.content)))  # may be cut into blocks within a sentence
    text = "\n".join(_texts(message.content, where))
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


def _said(content: Any) -> Iterator[str]:
    """Yield the text of an assistant's turn. Whatever else a provider puts there is not for the next reader."""
    for block in _blocks(content):
        if isinstance(block, str):
            yield block
        elif (text := _text(block)) is not None:
            yield text


def _texts(content: Any, where: str) -> Iterator[str]:
    """Yield the text of each block of a turn that has to be read whole."""
    for block in _blocks(content):
        if isinstance(block, str):
            yield block
        elif (text := _text(block)) is not None:
            yield text
        elif block.get("type") == "tool_result":  # Anthropic's shape of a ToolMessage
            yield from _texts(block.get("content"), where)
        else:
            raise PromptError(
                f"{where} has a block of type {block.get('type')!r}. This model reads text only: leave the block out, "
                "or put what it shows into words."
            )


def _blocks(content: Any) -> Sequence[Any]:
    return [content] if isinstance(content, str) else content or ()


def _text(block: Mapping[str, Any]) -> str | None:
    text = block.get("text")  # Bedrock's blocks have no type
    return text if block.get("type", "text") in _TEXT_BLOCKS and isinstance(text, str) else None
