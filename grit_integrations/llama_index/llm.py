"""GritLLM: LlamaIndex's language model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar

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

from grit_integrations.llama_index.arguments import check_kind
from grit_integrations.llama_index.events import announce
from grit_integrations.llama_index.generation import LLMCall, PreparedDocuments
from grit_integrations.llama_index.messages import as_turns, cached_texts
from grit_integrations.llama_index.options import DecodingComponent
from grit_integrations.llama_index.responses import chat_response, completion_piece, completion_response, unchanged
from grit_integrations.llama_index.source import GritComponent, as_grit
from grit_integrations.model import GritLM
from grit_integrations.options import MODES, Caching, check_caching
from grit_integrations.prompts.formats import Message
from grit_integrations.results import Generation

if TYPE_CHECKING:
    from grit_integrations.engine.streaming import GenerationStream

Response = TypeVar("Response", ChatResponse, CompletionResponse)

# The framework fills the window with text and counts none of the tokens that mark turns, so this many are kept free at
# least; a chat template may write more.
_TURN_MARKERS = 64


class GritLLM(DecodingComponent, GritComponent, LLM):
    """Chat and complete with a GritLM.

    The options of `Decoding` (`max_new_tokens`, `temperature`, ...) are fields, and `decoding` is all of them as one
    value; `max_tokens` means `max_new_tokens`. Every endpoint accepts them for one call as well
    (`llm.complete(prompt, max_new_tokens=16)`). A prompt for completion is one user turn. Prompts follow the model's
    own format, with any order of roles.

    `raw` of a response, and of a stream's last chunk, is JSON-able: `model`, `finish_reason`, `usage`, `timings` in
    seconds and what the KV `cache` did, which a `KVCacheEvent` tells as well. Closing a stream stops the work; the
    async endpoints never block their event loop.

    Every endpoint also accepts `documents`, texts to answer from, which start from their cached keys and values;
    `caching`; `query_instruction`, which the question was embedded under (for the `query` modes of caching); and
    `quotable`, of each document where the part begins and ends that may be quoted. A quoted answer comes with its
    `quotes` in `additional_kwargs`, and in a conversation with a `CitationBlock` too. The `documents` that `prepare`
    returned stand for the messages and all of these: their prompt is not parsed again.

    Messages of the user, the system and tools are text. Of the assistant's the text is read, whatever else another
    provider left there. What stands before a `CachePoint` is a block of the KV cache, if the mode is `"prefix"`; in the
    modes that read texts by themselves it would change what is read, so there it is passed over.

    Args:
        model: a `GritLM`, or a name that is loaded at first use; by default the environment's `GRIT_MODEL`, else
            `"grit-mini"`.
        caching: what of a prompt is read once and kept; `None` takes the mode of the `GritLM`.
        system_prompt: what stands before every conversation and every completion.
        output_parser: the framework's parser of answers.
        pydantic_program_mode: how the framework asks for structured answers.
        callback_manager: the framework's callbacks.
        rate_limiter: the framework's throttle.
        **options: those of `Decoding`, one by one or as `decoding=Decoding(...)`; with a name, the arguments of
            `GritLM` (`device`, `dtype`, `revision`, ...). The framework leaves room for `max_new_tokens` in the window.

    Raises:
        OptionError: an option that does not exist, a value outside its range, or one that contradicts another or the
            `GritLM`.

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

    caching: str | None = Field(default=None, description="The caching mode; None takes the model's.")

    def __init__(
        self,
        model: GritLM | str | Path | None = None,
        *,
        caching: Caching | None = None,
        system_prompt: str | None = None,
        output_parser: BaseOutputParser | None = None,
        pydantic_program_mode: PydanticProgramMode = PydanticProgramMode.DEFAULT,
        callback_manager: CallbackManager | None = None,
        rate_limiter: Any | None = None,
        **options: Any,
    ) -> None:
        decoding = self._taken(options)
        check_kind("output_parser", output_parser, BaseOutputParser, NoneType)
        if caching is not None:
            check_caching(caching)
            options |= {} if isinstance(model, GritLM) else {"caching": caching}
        super().__init__(
            as_grit(model, options, GritLLM),
            **decoding,
            caching=caching,
            system_prompt=system_prompt,
            output_parser=output_parser,
            pydantic_program_mode=pydantic_program_mode,
            callback_manager=callback_manager,
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
            num_output=self.decoding.max_new_tokens + max(_TURN_MARKERS, 2 * self._model.count_message_tokens("?")),
            is_chat_model=True,
            model_name=self.model_name,
        )

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Return everything that decides the answers, as plain data; the mode of caching is the one in force."""
        return {**super().to_dict(**kwargs), "caching": self.caching or self._model.caching}

    def to_payload(self) -> dict[str, Any]:
        """Return what events say about this model; opens no checkpoint, since an event loop may be waiting."""
        payload = {"class_name": self.class_name(), "model_name": self.model_name, "revision": self.revision}
        decoding = asdict(self.decoding)
        return {**payload, "is_chat_model": True, "caching": self.caching or self._model.caching, **decoding}

    def prepare(self, prompt: str | Sequence[ChatMessage], **kwargs: Any) -> PreparedDocuments:
        """Return the documents of a call with these arguments, and with them its prompt, parsed once.

        Reads no weights. `prompt.missing(max_new_tokens)` tells how many tokens the window lacks.

        Raises:
            OptionError: an option that does not exist, or a value outside its range.
            PromptError: a prompt without text, or a document that is none.

        Example:
            >>> llm = GritLLM("grit-mini", max_new_tokens=4)
            >>> documents = llm.prepare("What pumps the blood?", documents=["The heart pumps blood."])
            >>> documents.prompt.missing(llm.max_new_tokens)
            0
            >>> usage = llm.complete("What pumps the blood?", documents=documents).raw["usage"]
            >>> usage["prompt_tokens"] == len(documents.prompt)
            True
        """
        call = self._call_of(kwargs, () if isinstance(prompt, str) else prompt)
        turns = self._prompt(prompt, formatted=False) if isinstance(prompt, str) else self._turns(prompt)
        return PreparedDocuments(self._model.prompt(turns, call.documents, **call.reading))

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation.

        Raises:
            OptionError: an option that does not exist, or a value outside its range.
            PromptError: a message of the user's or a tool's that holds more than text, or no text at all.
            ContextOverflowError: conversation and answer exceed the window.
        """
        call = self._call_of(kwargs, messages)
        generation = self._model.generate(*call.asked(self._turns(messages)), **call.options)
        return chat_response(self._finished(generation))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation without blocking the event loop; cancelling the task stops the work."""
        call = self._call_of(kwargs, messages)
        generation = await self._model.agenerate(*call.asked(self._turns(messages)), **call.options)
        return chat_response(self._finished(generation))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer a conversation piece by piece; the message grows, `delta` is what is new."""
        call = self._call_of(kwargs, messages)
        stream = self._model.stream(*call.asked(self._turns(messages)), **call.options)
        return self._read(stream, chat_response, active_span_id.get())

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Answer a conversation piece by piece without blocking the event loop."""
        call = self._call_of(kwargs, messages)
        stream = await self._model.astream(*call.asked(self._turns(messages)), **call.options)
        return self._aread(stream, chat_response, active_span_id.get())

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt, which is one user turn; `formatted` says that it already holds the system prompt.

        Raises:
            OptionError: an option that does not exist, or a value outside its range.
            PromptError: a prompt without text, or a document that is none.
            ContextOverflowError: prompt, documents and answer exceed the window.
        """
        call = self._call_of(kwargs)
        return self._finished(self._model.generate(*call.asked(self._prompt(prompt, formatted)), **call.options))

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt without blocking the event loop; cancelling the task stops the work."""
        call = self._call_of(kwargs)
        asked = call.asked(self._prompt(prompt, formatted))
        return self._finished(await self._model.agenerate(*asked, **call.options))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Answer a prompt piece by piece; `text` grows, `delta` is what is new."""
        call = self._call_of(kwargs)
        stream = self._model.stream(*call.asked(self._prompt(prompt, formatted)), **call.options)
        return self._read(stream, unchanged, active_span_id.get())

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """Answer a prompt piece by piece without blocking the event loop."""
        call = self._call_of(kwargs)
        stream = await self._model.astream(*call.asked(self._prompt(prompt, formatted)), **call.options)
        return self._aread(stream, unchanged, active_span_id.get())

    def _call_of(self, overrides: Mapping[str, Any], messages: Sequence[ChatMessage] = ()) -> LLMCall:
        call = LLMCall.of(overrides, self.decoding, self.caching)
        # Where texts are blocks of their own, read bidirectionally, a cut in a turn would change what is read.
        embeds = MODES[call.caching or self._model.caching].embedded
        return call if embeds else replace(call, known_documents=cached_texts(messages))

    def _turns(self, messages: Sequence[ChatMessage]) -> list[Message]:
        turns = as_turns(messages)
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
                if not chunk.is_empty:
                    yield shape(completion_piece(text, chunk, self.model_name))

    async def _aread(
        self, stream: GenerationStream, shape: Callable[[CompletionResponse], Response], span_id: str | None
    ) -> AsyncGenerator[Response, None]:
        text = ""
        async with stream:
            async for chunk in stream:
                text += chunk.text
                if chunk.generation is not None:
                    announce(chunk.generation, span_id)
                if not chunk.is_empty:
                    yield shape(completion_piece(text, chunk, self.model_name))

    def _finished(self, generation: Generation) -> CompletionResponse:
        announce(generation, active_span_id.get())
        return completion_response(generation, self.model_name)
