"""LlamaIndex's messages to GritLM's turns.

| LlamaIndex | turn |
|---|---|
| `system`, `developer` | system; the core folds it into the next user turn |
| `user` | user |
| `tool`, `function` | user: what a tool gave back is something the model is told |
| `assistant`, `chatbot`, `model` | assistant; its text, whatever else another provider left there |

Any order of roles is accepted: the core merges neighbours and drops blank turns. A `CachePoint` says how far a prompt
is to be cached: what stands before it is a block of the KV cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    MessageRole,
    TextBlock,
)

from grit_integrations.errors import PromptError
from grit_integrations.prompts.formats import Message, Role

_ROLES: Mapping[MessageRole, Role] = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.TOOL: "user",
    MessageRole.FUNCTION: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
}


def as_turns(messages: Sequence[ChatMessage]) -> list[Message]:
    """Return the turns of a conversation.

    Raises:
        PromptError: something else than messages, or one that holds more than text and is not the assistant's; it is
            named.
    """
    check_messages(messages)
    return [_as_turn(message, f"Message {index}") for index, message in enumerate(messages)]


def cached_texts(messages: Sequence[ChatMessage]) -> list[str]:
    """Return what stands before each cache point of a conversation, back to the one before or to the message's start.

    Raises:
        PromptError: as `as_turns` says.
    """
    check_messages(messages)
    texts: list[str] = []
    stretch: list[str] = []
    for index, message in enumerate(messages):
        earlier, stretch = stretch, []
        for piece in _pieces(message, f"Message {index}"):
            if isinstance(piece, CachePoint):
                texts.append("\n".join(stretch or earlier))  # a point that begins a message ends the one before
                earlier, stretch = [], []
            else:
                stretch.append(piece)
    return [text for text in texts if text.strip()]


def _as_turn(message: ChatMessage, where: str) -> Message:
    texts = [piece for piece in _pieces(message, where) if isinstance(piece, str)]
    return Message(_ROLES[message.role], "\n".join(texts))


def _pieces(message: ChatMessage, where: str) -> Iterator[str | CachePoint]:
    """Yield the texts and cache points of a message. Of the assistant's, the rest is not for the next reader."""
    for block in message.blocks:
        if isinstance(block, TextBlock):
            yield block.text
        elif isinstance(block, CachePoint):
            yield block
        elif _ROLES[message.role] != "assistant":
            yield from _shown(block, where)


def _shown(block: Any, where: str) -> Iterator[str]:
    """Yield the texts of a block that a user or a tool shows, which has to be read whole."""
    for inner in block.content if isinstance(block, CitableBlock) else [block]:
        if isinstance(inner, TextBlock):
            yield inner.text
        elif not isinstance(inner, CitationBlock):  # what a turn cites, its text says
            raise PromptError(
                f"{where} holds a block of type {inner.block_type!r}; this model reads only text. Remove it, or put "
                "what it says into a TextBlock."
            )


def check_messages(messages: object) -> None:
    """Refuse what is no list of the framework's messages.

    Raises:
        PromptError: it says what was found, and where.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise PromptError(f"The messages are a {type(messages).__name__}. Give a list of ChatMessage.")
    for index, message in enumerate(messages):
        if not isinstance(message, ChatMessage):
            raise PromptError(f"Message {index} is a {type(message).__name__}. Give a ChatMessage.")
