"""What GritLM gives back, as LangChain's results, chunks and metadata.

What is told over a stream is merged: counts, timings and quotes must come exactly once, with the last chunk. Times are
in nanoseconds: a loop over an agent's stream sums several answers, and LangChain merges no fractions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.outputs import Generation as LLMGeneration
from langchain_core.outputs import GenerationChunk as LLMGenerationChunk

from grit_integrations.langchain.quotes import as_citations, quotes_metadata
from grit_integrations.langchain.source import PROVIDER

if TYPE_CHECKING:
    from grit_integrations.langchain.generation import GenerationCall
    from grit_integrations.results import CacheReport, Generation, GenerationChunk, TokenLogprob, Usage


# A conversation


def chat_result(generation: Generation, call: GenerationCall) -> ChatResult:
    """Return a finished answer as a message."""
    message = AIMessage(
        content=cast("Any", _content(generation.text, generation, call)),
        usage_metadata=_usage_metadata(generation.usage),
        response_metadata={**_metadata(generation, call), **_logprobs(generation.logprobs)},
    )
    return ChatResult(generations=[ChatGeneration(message=message)])


def chat_chunk(piece: GenerationChunk, call: GenerationCall) -> ChatGenerationChunk:
    """Return a piece of an answer as a piece of a message."""
    content = _content(piece.text, piece.generation, call)
    if isinstance(content, list):
        content[0]["index"] = 0  # pieces of one block merge into it
    message = AIMessageChunk(content=cast("Any", content), response_metadata=_logprobs(piece.logprobs))
    if piece.generation is not None:
        message.usage_metadata = _usage_metadata(piece.generation.usage)
        message.response_metadata.update(_metadata(piece.generation, call))
        message.chunk_position = "last"
    return ChatGenerationChunk(message=message)


# Plain text


def llm_result(generations: Sequence[Generation], call: GenerationCall) -> LLMResult:
    """Return the finished answers to a batch of prompts, in their order."""
    usage = Counter[str]()
    for generation in generations:
        usage.update(_token_usage(generation.usage))
    return LLMResult(
        generations=[[_llm_generation(generation, call)] for generation in generations],
        llm_output={"model_name": call.grit.name, "token_usage": dict(usage)},
    )


def llm_chunk(piece: GenerationChunk, call: GenerationCall) -> LLMGenerationChunk:
    """Return a piece of an answer."""
    last = {} if piece.generation is None else _generation_info(piece.generation, call)
    return LLMGenerationChunk(text=piece.text, generation_info={**last, **_logprobs(piece.logprobs)} or None)


def _llm_generation(generation: Generation, call: GenerationCall) -> LLMGeneration:
    info = {**_generation_info(generation, call), **_logprobs(generation.logprobs)}
    return LLMGeneration(text=generation.text, generation_info=info)


def _generation_info(generation: Generation, call: GenerationCall) -> dict[str, Any]:
    return {**_metadata(generation, call), "token_usage": _token_usage(generation.usage)}


# Both


def _content(text: str, generation: Generation | None, call: GenerationCall) -> str | list[dict[str, Any]]:
    """Return a text as it is; of a quoted answer, a text block, whose citations come with the whole generation."""
    if call.decoding.quoting is None:
        return text
    quotes = () if generation is None else generation.quotes
    annotations = {"annotations": as_citations(quotes, call.given)} if quotes else {}
    return [{"type": "text", "text": text, **annotations}]


def _metadata(generation: Generation, call: GenerationCall) -> dict[str, Any]:
    return {
        "model_name": call.grit.name,
        "model_provider": PROVIDER,
        "finish_reason": generation.finish_reason,
        "timings": {name: _nanoseconds(seconds) for name, seconds in asdict(generation.timings).items()},
        "cache": _cache_report(generation.cache),
        **quotes_metadata(generation.quotes, call.given),
    }


def _cache_report(report: CacheReport) -> dict[str, Any]:
    told = {**asdict(report), "declined": list(report.declined)}
    saved = told.pop("seconds_saved")
    return {**told, "nanoseconds_saved": None if saved is None else _nanoseconds(saved)}


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _usage_metadata(usage: Usage) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        input_token_details=InputTokenDetails(
            cache_read=usage.cache_read_tokens, cache_creation=usage.cache_creation_tokens
        ),
    )


def _token_usage(usage: Usage) -> dict[str, int]:
    return {**asdict(usage), "total_tokens": usage.total_tokens}


def _logprobs(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Return log-probabilities in the shape that LangChain's users know from OpenAI."""
    if not logprobs:
        return {}
    content = [
        {
            "token": entry.token,
            "logprob": entry.logprob,
            "top_logprobs": [{"token": token, "logprob": value} for token, value in entry.alternatives],
        }
        for entry in logprobs
    ]
    return {"logprobs": {"content": content}}
