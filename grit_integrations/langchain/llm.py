"""GritLLM: text in, text out. A thin twin of ChatGrit for chains that still want a plain `BaseLLM`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun, Callbacks
from langchain_core.language_models import BaseLLM
from langchain_core.language_models.base import LangSmithParams
from langchain_core.outputs import Generation as LLMGeneration
from langchain_core.outputs import GenerationChunk as LLMGenerationChunk
from langchain_core.outputs import LLMResult
from pydantic import ConfigDict, PrivateAttr, model_validator

from grit_integrations import __version__
from grit_integrations.langchain.options import (
    PROVIDER,
    GenerationOptions,
    Request,
    openai_logprobs,
    response_metadata,
    says_something,
)
from grit_integrations.results import Generation, GenerationChunk, Usage

_TRACING = ("tags", "metadata", "run_name", "run_id")


class GritLLM(GenerationOptions, BaseLLM):
    """Complete text with GritLM. A prompt is one user turn; use `ChatGrit` for conversations.

    Instantiate:
        >>> from grit_integrations.langchain import GritLLM
        >>> llm = GritLLM(max_tokens=16)

    Invoke:
        Only new text comes back, never the prompt.

        >>> answer = llm.invoke("What pumps blood?")

    Stream:
        >>> "".join(llm.stream("What pumps blood?")) == answer
        True

    Batch:
        The prompts of one batch are decoded together.

        >>> llm.batch(["What pumps blood?", "Why do stars shine?"])[0] == answer
        True

    Raises:
        OptionError: an unknown option of a call, or a value outside its range, before any work.
        ContextOverflowError: prompt and `max_tokens` together exceed the model's window.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())

    @model_validator(mode="after")
    def _set_grit_llm_version(self) -> Self:
        self._add_version("grit_integrations", __version__)
        return self

    _call: dict[str, Any] | None = PrivateAttr(default=None)  # options of the one call that a copy is made for

    def generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Callbacks | list[Callbacks] | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Generate for each prompt; LangChain's tracing arguments and this model's options go into `kwargs`."""
        return BaseLLM.generate(self._keyed(kwargs), prompts, stop, callbacks, **kwargs)

    async def agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Callbacks | list[Callbacks] | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Generate without blocking the event loop; cancelling the task stops the work."""
        keyed = await asyncio.to_thread(self._keyed, kwargs)
        return await BaseLLM.agenerate(keyed, prompts, stop, callbacks, **kwargs)

    def _keyed(self, kwargs: Mapping[str, Any]) -> GritLLM:
        """Return a model whose `_identifying_params` are right as the key of cached answers.

        LangChain leaves the options of a call out of that key, and would answer one temperature with another's text.
        """
        if not self._answers_are_cached():
            return self
        copy = self.model_copy()
        copy._call = {name: value for name, value in kwargs.items() if name not in _TRACING}
        copy._answer_key(None, copy._call)  # opens the checkpoint's files here, where nobody's event loop waits
        return copy

    @property
    def _llm_type(self) -> str:
        return PROVIDER

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        if self._call is not None:
            return self._answer_key(None, self._call)
        return self._identity(self._request(None, {}))

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._trace("llm", stop, kwargs)

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        request = self._request(stop, kwargs)
        with ExitStack() as running:  # an error of one closes them all
            start = partial(request.grit.stream, documents=request.documents, **request.options())
            streams = [running.enter_context(start(prompt)) for prompt in prompts]
            return _result([stream.result() for stream in streams], request)

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        request = self._request(stop, kwargs)
        async with AsyncExitStack() as running:
            start = partial(request.grit.astream, documents=request.documents, **request.options())
            streams = [await running.enter_async_context(await start(prompt)) for prompt in prompts]
            return _result([await stream.aresult() for stream in streams], request)

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[LLMGenerationChunk]:
        request = self._request(stop, kwargs)
        with request.grit.stream(prompt, request.documents, **request.options()) as stream:
            for piece in filter(says_something, stream):
                chunk = _chunk(piece, request)
                if run_manager:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[LLMGenerationChunk]:
        request = self._request(stop, kwargs)
        async with await request.grit.astream(prompt, request.documents, **request.options()) as stream:
            async for piece in stream:
                if not says_something(piece):
                    continue
                chunk = _chunk(piece, request)
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk


def _result(generations: Sequence[Generation], request: Request) -> LLMResult:
    usage = Counter[str]()
    for generation in generations:
        usage.update(_token_usage(generation.usage))
    return LLMResult(
        generations=[[_finished(generation, request)] for generation in generations],
        llm_output={"model_name": request.grit.name, "token_usage": dict(usage)},
    )


def _finished(generation: Generation, request: Request) -> LLMGeneration:
    info = {**_info(generation, request), **openai_logprobs(generation.logprobs)}
    return LLMGeneration(text=generation.text, generation_info=info)


def _chunk(piece: GenerationChunk, request: Request) -> LLMGenerationChunk:
    last = {} if piece.generation is None else _info(piece.generation, request)
    return LLMGenerationChunk(text=piece.text, generation_info={**last, **openai_logprobs(piece.logprobs)} or None)


def _info(generation: Generation, request: Request) -> dict[str, Any]:
    return {**response_metadata(generation, request), "token_usage": _token_usage(generation.usage)}


def _token_usage(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "cache_creation_tokens": usage.cache_creation_tokens,
    }
