"""Every endpoint of GritLLM called alike, and what it is asked."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse

from grit_integrations.llama_index import GritLLM

HELLO = [ChatMessage(role="user", content="Say hello.")]
ENDPOINTS = ("complete", "chat", "stream_complete", "stream_chat")
DOCUMENTS = [
    "The heart pumps blood through the arteries and back through the veins, about seventy times a minute.",
    "Stars shine because hydrogen fuses into helium in their cores, which sets free a great deal of light.",
]
QUESTION = "Why do stars shine?"


async def call(llm: GritLLM, endpoint: str, asked: str | list[ChatMessage] = "Say hello.", **options: Any) -> list[Any]:
    """Call an endpoint, `a...` for its async form, and return its responses."""
    chats = isinstance(asked, str) and endpoint.endswith("chat")
    result = getattr(llm, endpoint)([ChatMessage(role="user", content=asked)] if chats else asked, **options)
    if endpoint.startswith("a"):
        result = await result
    if isinstance(result, ChatResponse | CompletionResponse):
        return [result]
    return [piece async for piece in result] if hasattr(result, "__aiter__") else list(result)


def text_of(response: Any) -> str:
    return str(response.text if isinstance(response, CompletionResponse) else response.message.content)


every_endpoint = pytest.mark.parametrize("endpoint", [*ENDPOINTS, *(f"a{name}" for name in ENDPOINTS)])
every_stream = pytest.mark.parametrize("endpoint", [n for e in ENDPOINTS[2:] for n in (e, f"a{e}")])
