"""GritLLM: LlamaIndex's language model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, cast

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.bridge.pydantic import Field
from llama_index.core.callbacks import CallbackManager
from llama_index.core.instrumentation.span import active_span_id
from llama_index.core.llms import LLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.types import BaseOutputParser, PydanticProgramMode

from grit_integrations.engine.streaming import GenerationStream
from grit_integrations.errors import OptionError
from grit_integrations.llama_index.events import announce
from grit_integrations.llama_index.options import GritComponent, as_grit
from grit_integrations.llama_index.responses import (
    as_chat,
    as_completion,
    as_turn,
    is_news,
    logprob_lists,
    quotes_of,
    raw_of,
)
from grit_integrations.model import GenerationOptions, GritLM
from grit_integrations.options import OPTION_ALIASES, Caching, Decoding, Quoting, check_caching
from grit_integrations.prompts.formats import Message
from grit_integrations.results import Generation, GenerationChunk

Response = TypeVar("Response", ChatResponse, CompletionResponse)

# The framework fills the window with text and counts none of the tokens that mark turns, so this many are kept free.
_TURN_MARKERS = 64

_OWN_OPTIONS = ("documents", "caching", "query_instruction", "quotable")


@dataclass(frozen=True, slots=True)
class _Request:
    """What the keyword arguments of one call ask for."""

    documents: list[str]
    options: GenerationOptions

    @property
    def decoding(self) -> Decoding:
        """How tokens are chosen."""
        return self.options.get("decoding") or Decoding()


class GritLLM(GritComponent, LLM):
    """Chat and complete with a GritLM.

    Every endpoint accepts the options below for one call (`llm.complete(prompt, max_new_tokens=16)`); `max_tokens`
    means `max_new_tokens`. A prompt for completion is one user turn. Prompts follow the model's own format, with any
    order of roles. `raw` of a response, and of a stream's last chunk, is JSON-able: `model`, `finish_reason`, `usage`,
    `timings` in seconds and what the KV `cache` did, which a `KVCacheEvent` tells as well. Closing a stream stops the
    work; the async endpoints never block their event loop.

    Every endpoint also accepts `documents`, texts to answer from, which start from their cached keys and values;
    `caching`; `query_instruction`, which the question was embedded under (for the `query` modes of caching); and
    `quotable`, of each document where the part begins and ends that may be quoted. A quoted answer comes with its
    `quotes` in `additional_kwargs`, and in a conversation with a `CitationBlock` too.

    Args:
        model: a `GritLM`, or a name that is loaded at first use; by default the environment's `GRIT_MODEL`, else
            `"grit-mini"`.
        max_new_tokens: at most so many tokens in an answer; the framework leaves room for them in the window.
        temperature: 0 is greedy; above 0 samples.
        top_p: keep the smallest set of tokens whose probability reaches it.
        top_k: keep the k likeliest tokens; 0 keeps all.
        seed: makes sampling repeatable.
        repetition_penalty: above 1 makes tokens that already occurred less likely.
        stop: strings that end the answer and are not part of it.
        logprobs: report each token's log-probability and so many alternatives.
        quote: hold answers to one span of the `documents`, word for word: `True`, or how.
        caching: what of a prompt is read once and kept; `None` takes the mode of the `GritLM`.
        system_prompt: what stands before every conversation and every completion.
        output_parser: the framework's parser of answers.
        pydantic_program_mode: how the framework asks for structured answers.
        callback_manager: the framework's callbacks.
        rate_limiter: the framework's throttle.
        **options: with a name, the arguments of `GritLM` (`device`, `dtype`, `revision`, ...).

    Raises:
        OptionError: an option that does not exist, a value outside its range, or one that contradicts the `GritLM`.

    Example:
        >>> from grit_integrations.llama_index import GritLLM
        >>> llm = GritLLM("grit-mini", max_new_tokens=8)
        >>> llm.complete("What pumps the blood?").raw["usage"]["completion_tokens"] <= 8
        True
        >>> llm.complete("What pumps the blood?", documents=["The heart pumps blood."]).raw["cache"]["mode"]
        'prefix'
        >>> answer = llm.complete("What pumps the blood?", documents=["The heart pumps blood."], quote=True)
        >>> answer.text == answer.additional_kwargs["quotes"][0]["text"]
        True
    """

    max_new_tokens: int = Field(default=256, description="At most so many tokens in an answer.")
    temperature: float = Field(default=0.0, description="0 is greedy.")
    top_p: float = Field(default=1.0, description="Keep the likeliest tokens up to this probability.")
    top_k: int = Field(default=0, description="Keep so many of the likeliest tokens; 0 keeps all.")
    seed: int | None = Field(default=None, description="Makes sampling repeatable.")
    repetition_penalty: float = Field(default=1.0, description="Above 1 makes repeated tokens less likely.")
    stop: tuple[str, ...] = Field(default=(), description="Strings that end the answer.")
    logprobs: int | None = Field(default=None, description="Alternatives reported a token.")
    quote: bool | Quoting = Field(default=False, description="Answer in the documents' own words.")
    caching: str | None = Field(default=None, description="The caching mode; None takes the model's.")

    def __init__(
        self,
        model: GritLM | str | Path | None = None,
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int | None = None,
        repetition_penalty: float = 1.0,
        stop: str | Sequence[str] = (),
        logprobs: int | None = None,
        quote: bool | Quoting | Mapping[str, Any] = False,
        caching: Caching | None = None,
        system_prompt: str | None = None,
        output_parser: BaseOutputParser | None = None,
        pydantic_program_mode: PydanticProgramMode = PydanticProgramMode.DEFAULT,
        callback_manager: CallbackManager | None = None,
        rate_limiter: Any | None = None,
        **options: Any,
    ) -> None:
        decoding = Decoding(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            seed=seed,
            repetition_penalty=repetition_penalty,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            logprobs=logprobs,
            quote=Quoting(**quote) if isinstance(quote, Mapping) else quote,  # a component's plain data, read back
        )
        if caching is not None:
            check_caching(caching)
            options |= {} if isinstance(model, GritLM) else {"caching": caching}
        super().__init__(
            as_grit(model, options, GritLLM),
            **asdict(decoding),
            caching=caching,
            system_prompt=system_prompt,
            output_parser=output_parser,
            pydantic_program_mode=pydantic_program_mode,
            callback_manager=callback_manager or CallbackManager([]),
            rate_limiter=rate_limiter,
        )

    @classmethod
    def class_name(cls) -> str:
        """Return the name that serialised components carry."""
        return "GritLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """The model's true window, and what the framework leaves free in it; reads no weights.

        `num_output` is the longest answer and a reserve for the turn markers of the prompt: prompts that the framework
        packs to the brim (`tree_summarize`, `compact`) would not fit without it.
        """
        return LLMMetadata(
            context_window=self._model.window,
            num_output=self.max_new_tokens + _TURN_MARKERS,
            is_chat_model=True,
            model_name=self.model_name,
        )

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Return everything that decides the answers, as plain data; the mode of caching is the one in force."""
        return {**super().to_dict(**kwargs), "caching": self.caching or self._model.caching}

    def to_payload(self) -> dict[str, Any]:
        """Return what events say about this model; opens no checkpoint, since an event loop may be waiting."""
        payload = {"class_name": self.class_name(), "model_name": self.model_name, "revision": self.revision}
        decoding = asdict(self._request({}).decoding)
        return {**payload, "is_chat_model": True, "caching": self.caching or self._model.caching, **decoding}

    def missing_tokens(self, prompt: str | Sequence[ChatMessage], **kwargs: Any) -> int:
        """Return how many tokens a call with these arguments has more than fit into the window; 0 if it fits.

        Reads no weights.

        Example:
            >>> GritLLM("grit-mini").missing_tokens("What pumps the blood?", documents=["The heart pumps blood."])
            0
        """
        request = self._request(kwargs)
        messages = self._prompt(prompt, formatted=False) if isinstance(prompt, str) else self._turns(prompt)
        found = self._model.count_message_tokens(messages, request.documents, caching=request.options.get("caching"))
        return max(0, found + request.decoding.max_new_tokens - self._model.window)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation.

        Raises:
            OptionError: an option that does not exist, or a value outside its range.
            PromptError: a message that holds more than text, or no text at all.
            ContextOverflowError: conversation and answer exceed the window.
        """
        request = self._request(kwargs)
        generation = self._model.generate(self._turns(messages), request.documents, **request.options)
        return as_chat(self._finished(generation))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation without blocking the event loop; cancelling the task stops the work."""
        request = self._request(kwargs)
        generation = await self._model.agenerate(self._turns(messages), request.documents, **request.options)
        return as_chat(self._finished(generation))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer a conversation piece by piece; the message grows, `delta` is what is new."""
        request = self._request(kwargs)
        stream = self._model.stream(self._turns(messages), request.documents, **request.options)
        return self._read(stream, as_chat, active_span_id.get())

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Answer a conversation piece by piece without blocking the event loop."""
        request = self._request(kwargs)
        stream = await self._model.astream(self._turns(messages), request.documents, **request.options)
        return self._aread(stream, as_chat, active_span_id.get())

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt, which is one user turn; `formatted` says that it already holds the system prompt.

        Raises:
            OptionError: an option that does not exist, or a value outside its range.
            PromptError: a prompt without text, or a document that is none.
            ContextOverflowError: prompt, documents and answer exceed the window.
        """
        request = self._request(kwargs)
        return self._finished(
            self._model.generate(self._prompt(prompt, formatted), request.documents, **request.options)
        )

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt without blocking the event loop; cancelling the task stops the work."""
        request = self._request(kwargs)
        messages = self._prompt(prompt, formatted)
        return self._finished(await self._model.agenerate(messages, request.documents, **request.options))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Answer a prompt piece by piece; `text` grows, `delta` is what is new."""
        request = self._request(kwargs)
        stream = self._model.stream(self._prompt(prompt, formatted), request.documents, **request.options)
        return self._read(stream, as_completion, active_span_id.get())

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """Answer a prompt piece by piece without blocking the event loop."""
        request = self._request(kwargs)
        stream = await self._model.astream(self._prompt(prompt, formatted), request.documents, **request.options)
        return self._aread(stream, as_completion, active_span_id.get())

    def _request(self, overrides: Mapping[str, Any]) -> _Request:
        """Return this object's options, read now since they are settable, with those of one call over them."""
        own = {option.name: getattr(self, option.name) for option in fields(Decoding)}
        known = [*own, *OPTION_ALIASES, *_OWN_OPTIONS]
        for name in overrides:
            if name not in known:
                raise OptionError.unknown(name, known)
        given = {name: value for name, value in overrides.items() if name not in _OWN_OPTIONS}
        documents = overrides.get("documents")
        if isinstance(documents, str):
            raise OptionError("documents is one string where a sequence of texts is wanted. Put it in a list: [text].")
        caching = overrides.get("caching") or self.caching
        if caching is not None:
            check_caching(caching)
        options: GenerationOptions = {
            "decoding": Decoding(**own).with_options(**given),
            "caching": cast("Caching | None", caching),
            "query_instruction": overrides.get("query_instruction") or "",
            "quotable": overrides.get("quotable"),
        }
        return _Request(list(documents or ()), options)

    def _turns(self, messages: Sequence[ChatMessage]) -> list[Message]:
        turns = [as_turn(message, index) for index, message in enumerate(messages)]
        # The framework's predict() has already put the system prompt in front; a direct chat() has not.
        return turns if not self.system_prompt or self._system()[0] in turns[:1] else [*self._system(), *turns]

    def _prompt(self, prompt: str, formatted: bool) -> list[Message]:
        return [*([] if formatted else self._system()), Message("user", prompt)]

    def _system(self) -> list[Message]:
        return [Message("system", self.system_prompt)] if self.system_prompt else []

    def _read(
        self, stream: GenerationStream, shape: Callable[[CompletionResponse], Response], span_id: str | None
    ) -> Generator[Response, None, None]:
        text = ""
        with stream:
            for chunk in stream:
                text += chunk.text
                if chunk.generation is not None:
                    announce(chunk.generation, span_id)
                if is_news(chunk):
                    yield shape(self._piece(text, chunk))

    async def _aread(
        self, stream: GenerationStream, shape: Callable[[CompletionResponse], Response], span_id: str | None
    ) -> AsyncGenerator[Response, None]:
        text = ""
        async with stream:
            async for chunk in stream:
                text += chunk.text
                if chunk.generation is not None:
                    announce(chunk.generation, span_id)
                if is_news(chunk):
                    yield shape(self._piece(text, chunk))

    def _piece(self, text: str, chunk: GenerationChunk) -> CompletionResponse:
        raw = None if chunk.generation is None else raw_of(chunk.generation, self.model_name)
        return CompletionResponse(
            text=text,
            delta=chunk.text,
            logprobs=logprob_lists(chunk.logprobs),
            raw=raw,
            additional_kwargs=quotes_of(chunk.generation),
        )

    def _finished(self, generation: Generation) -> CompletionResponse:
        announce(generation, active_span_id.get())
        return CompletionResponse(
            text=generation.text,
            logprobs=logprob_lists(generation.logprobs),
            raw=raw_of(generation, self.model_name),
            additional_kwargs=quotes_of(generation),
        )
