"""GritLLM: text in, text out. A thin twin of ChatGrit for chains that still want a plain `BaseLLM`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun, Callbacks
from langchain_core.language_models import BaseLLM
from langchain_core.language_models.base import LangSmithParams, LanguageModelInput
from langchain_core.outputs import GenerationChunk as LLMGenerationChunk
from langchain_core.outputs import LLMResult
from langchain_core.runnables import Runnable, RunnableConfig
from pydantic import ConfigDict, PrivateAttr, model_validator

from grit_integrations import __version__
from grit_integrations.langchain.generation import GritGenerator
from grit_integrations.langchain.responses import llm_chunk, llm_result
from grit_integrations.langchain.source import PROVIDER

_TRACING = ("tags", "metadata", "run_name", "run_id")


class GritLLM(GritGenerator, BaseLLM):
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

    if TYPE_CHECKING:

        def __init__(self, **fields: Any) -> None: ...  # type checkers do not see those made of options

    @model_validator(mode="after")
    def _set_grit_llm_version(self) -> Self:
        self._add_version("grit_integrations", __version__)
        return self

    _call: dict[str, Any] | None = PrivateAttr(default=None)  # options of the one call that a copy is made for

    def model_post_init(self, context: Any, /) -> None:
        """Pass on to LangChain's own hook, which pydantic's private attributes would otherwise replace."""
        super().model_post_init(context)

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

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """Complete each prompt. With `return_exceptions`, and so with fallbacks, each has its own answer or error."""
        if return_exceptions:
            return Runnable[LanguageModelInput, str].batch(self, inputs, config, return_exceptions=True, **kwargs)
        return BaseLLM.batch(self, inputs, config, **kwargs)

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """Complete each prompt without blocking the event loop; otherwise like `batch`."""
        if return_exceptions:
            return await Runnable[LanguageModelInput, str].abatch(
                self, inputs, config, return_exceptions=True, **kwargs
            )
        return await BaseLLM.abatch(self, inputs, config, **kwargs)

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
        return self._identity(self._call_of(None, {}))

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._trace("llm", stop, kwargs)

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        call = self._call_of(stop, kwargs)
        with ExitStack() as running:  # an error of one closes them all
            streams = [running.enter_context(call.stream(prompt)) for prompt in prompts]
            return llm_result([stream.result() for stream in streams], call)

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        call = self._call_of(stop, kwargs)
        async with AsyncExitStack() as running:
            streams = [await running.enter_async_context(await call.astream(prompt)) for prompt in prompts]
            return llm_result([await stream.aresult() for stream in streams], call)

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[LLMGenerationChunk]:
        call = self._call_of(stop, kwargs)
        with call.stream(prompt) as stream:
            for piece in stream:
                if piece.is_empty:
                    continue
                chunk = llm_chunk(piece, call)
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
        call = self._call_of(stop, kwargs)
        async with await call.astream(prompt) as stream:
            async for piece in stream:
                if piece.is_empty:
                    continue
                chunk = llm_chunk(piece, call)
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
