"""LlamaIndex's messages to GritLM's turns.

| LlamaIndex | turn |
|---|---|
| `system`, `developer` | system; the core folds it into the next user turn |
| `user` | user |
| `tool`, `function` | user: what a tool gave back is something the model is told |
| `assistant`, `chatbot`, `model` | assistant |

Any order of roles is accepted: the core merges neighbours and drops blank turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llama_index.core.base.llms.types import ChatMessage, CitationBlock, MessageRole, TextBlock

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
        PromptError: a message holds more than text; it is named.
    """
    return [_as_turn(message, f"Message {index}") for index, message in enumerate(messages)]


def _as_turn(message: ChatMessage, where: str) -> Message:
    for block in message.blocks:
        if not isinstance(block, TextBlock | CitationBlock):  # what a turn cites, its text says
            raise PromptError(
                f"{where} holds a block of type {block.block_type!r}; this model reads only text. Remove it, or put "
                "what it says into a TextBlock."
            )
    return Message(_ROLES[message.role], message.content or "")
