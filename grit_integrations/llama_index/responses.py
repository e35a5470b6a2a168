"""Between LlamaIndex's messages and responses and the model's own: plain translation, no work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CitationBlock,
    CompletionResponse,
    LogProb,
    MessageRole,
    TextBlock,
)

from grit_integrations.errors import PromptError
from grit_integrations.prompts.formats import Message, Role
from grit_integrations.results import Generation, GenerationChunk, TokenLogprob

# GRIT has two roles. What a tool gave back is something the model is told, so it is read as a user's turn.
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


def as_turn(message: ChatMessage, index: int) -> Message:
    """Return a message as the model's.

    Raises:
        PromptError: it holds more than text.
    """
    for block in message.blocks:
        if not isinstance(block, TextBlock | CitationBlock):  # what a turn cites, its text says
            raise PromptError(
                f"Message {index} holds a block of type {block.block_type!r}; this model reads only text. Remove it, "
                "or put what it says into a TextBlock."
            )
    return Message(_ROLES[message.role], message.content or "")


def as_chat(response: CompletionResponse) -> ChatResponse:
    """Return a completion as the assistant's message, and what it quotes as the framework's citations."""
    quotes = response.additional_kwargs.get("quotes", ())
    blocks = [TextBlock(text=response.text), *(_citation(quote) for quote in quotes)]
    return ChatResponse(
        message=ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks),
        delta=response.delta,
        logprobs=response.logprobs,
        raw=response.raw,
        additional_kwargs=response.additional_kwargs,
    )


def _citation(quote: Mapping[str, Any]) -> CitationBlock:
    name = f"document {quote['document']}"
    place = {key: quote[key] for key in ("document", "start", "end")}
    return CitationBlock(
        cited_content=TextBlock(text=quote["text"]), source=name, title=name, additional_location_info=place
    )


def as_completion(response: CompletionResponse) -> CompletionResponse:
    """Return a completion as it is."""
    return response


def is_news(chunk: GenerationChunk) -> bool:
    """Whether a chunk has anything to show; text that may become a stop string is held back."""
    return bool(chunk.text or chunk.logprobs or chunk.generation)


def logprob_lists(tokens: Sequence[TokenLogprob]) -> list[list[LogProb]] | None:
    """Return one list a token: the token chosen, then the alternatives asked for."""
    if not tokens:
        return None
    pairs = [[(token.token, token.logprob), *token.alternatives] for token in tokens]
    return [[LogProb(token=text, logprob=logprob) for text, logprob in pair] for pair in pairs]


def quotes_of(generation: Generation | None) -> dict[str, Any]:
    """Return what an answer quotes as JSON-able data, by the places of the documents that were given."""
    quotes = () if generation is None else generation.quotes
    return {"quotes": [asdict(quote) for quote in quotes]} if quotes else {}


def raw_of(generation: Generation, model_name: str) -> dict[str, Any]:
    """Return all about a generation but its text, as JSON-able data."""
    usage = generation.usage
    counts = {**asdict(usage), "total_tokens": usage.total_tokens, "cached_tokens": usage.cache_read_tokens}
    return {
        "model": model_name,
        "finish_reason": generation.finish_reason,
        "usage": counts,
        "timings": asdict(generation.timings),
        "cache": {**asdict(generation.cache), "declined": list(generation.cache.declined)},
    }
