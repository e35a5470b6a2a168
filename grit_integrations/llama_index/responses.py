"""What GritLM gives back, as LlamaIndex's responses: JSON-able, with the counts where its handlers look for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LogProb,
    MessageRole,
    TextBlock,
)

from grit_integrations.llama_index.quotes import as_citations, quotes_metadata

if TYPE_CHECKING:
    from grit_integrations.results import Generation, GenerationChunk, TokenLogprob, Usage


# A conversation


def chat_response(response: CompletionResponse) -> ChatResponse:
    """Return a completion as the assistant's message, and what it quotes as the framework's citations."""
    citations = as_citations(response.additional_kwargs.get("quotes", ()))
    return ChatResponse(
        message=ChatMessage(role=MessageRole.ASSISTANT, blocks=[TextBlock(text=response.text), *citations]),
        delta=response.delta,
        logprobs=response.logprobs,
        raw=response.raw,
        additional_kwargs=response.additional_kwargs,
    )


# Plain text


def completion_response(generation: Generation, model_name: str) -> CompletionResponse:
    """Return a finished answer."""
    return CompletionResponse(
        text=generation.text,
        logprobs=_logprobs(generation.logprobs),
        raw=_metadata(generation, model_name),
        additional_kwargs=quotes_metadata(generation.quotes),
    )


def completion_piece(text: str, piece: GenerationChunk, model_name: str) -> CompletionResponse:
    """Return a piece of an answer; `text` is all of it so far."""
    last = piece.generation
    return CompletionResponse(
        text=text,
        delta=piece.text,
        logprobs=_logprobs(piece.logprobs),
        raw=None if last is None else _metadata(last, model_name),
        additional_kwargs={} if last is None else quotes_metadata(last.quotes),
    )


def unchanged(response: CompletionResponse) -> CompletionResponse:
    """Return a completion as it is."""
    return response


# Both


def _metadata(generation: Generation, model_name: str) -> dict[str, Any]:
    return {
        "model": model_name,
        "finish_reason": generation.finish_reason,
        "usage": _token_usage(generation.usage),
        "timings": asdict(generation.timings),  # seconds
        "cache": {**asdict(generation.cache), "declined": list(generation.cache.declined)},
    }


def _token_usage(usage: Usage) -> dict[str, Any]:
    details = {"cached_tokens": usage.cache_read_tokens}  # where OpenAI has it, and what reads OpenAI's usage looks
    return {**asdict(usage), "total_tokens": usage.total_tokens, "prompt_tokens_details": details}


def _logprobs(tokens: Sequence[TokenLogprob]) -> list[list[LogProb]] | None:
    """Return one list a token: the token chosen, then the alternatives asked for."""
    if not tokens:
        return None
    pairs = [[(token.token, token.logprob), *token.alternatives] for token in tokens]
    return [[LogProb(token=text, logprob=logprob) for text, logprob in pair] for pair in pairs]
