"""GritLLM: LlamaIndex's language model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    LogProb,
    MessageRole,
    TextBlock,
)
from llama_index.core.bridge.pydantic import Field
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import LLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.types import BaseOutputParser, PydanticProgramMode

from grit_integrations.errors import PromptError
from grit_integrations.generation import Decoding, Generation, GenerationChunk, TokenLogprob
from grit_integrations.llama_index.options import GritComponent, as_grit
from grit_integrations.model import GritLM
from grit_integrations.prompts import Message, Role
from grit_integrations.streaming import GenerationStream

Response = TypeVar("Response", ChatResponse, CompletionResponse)

# The framework fills the window with text and counts none of the tokens that mark turns, so this many are kept free.
_TURN_MARKERS = 64

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


class GritLLM(GritComponent, LLM):
    """Chat and complete with a GritLM.

    Every endpoint accepts the options below for one call (`llm.complete(prompt, max_new_tokens=16)`); `max_tokens`
    means `max_new_tokens`. A prompt for completion is one user turn. Prompts follow the model's own format, with any
    order of roles. `raw` of a response, and of a stream's last chunk, is JSON-able: `model`, `finish_reason`, `usage`
    and `timings` in seconds. Closing a stream stops the work; the async endpoints never block their event loop.

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
    """

    max_new_tokens: int = Field(default=256, description="At most so many tokens in an answer.")
    temperature: float = Field(default=0.0, description="0 is greedy.")
    top_p: float = Field(default=1.0, description="Keep the likeliest tokens up to this probability.")
    top_k: int = Field(default=0, description="Keep so many of the likeliest tokens; 0 keeps all.")
    seed: int | None = Field(default=None, description="Makes sampling repeatable.")
    repetition_penalty: float = Field(default=1.0, description="Above 1 makes repeated tokens less likely.")
    stop: tuple[str, ...] = Field(default=(), description="Strings that end the answer.")
    logprobs: int | None = Field(default=None, description="Alternatives reported a token.")

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
        )
        super().__init__(
            as_grit(model, options, GritLLM),
            **asdict(decoding),
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

    def to_payload(self) -> dict[str, Any]:
        """Return what events say about this model; opens no checkpoint, since an event loop may be waiting."""
        payload = {"class_name": self.class_name(), "model_name": self.model_name, "revision": self.revision}
        return {**payload, "is_chat_model": True, **asdict(self._decoding({}))}

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation.

        Raises:
            OptionError: an option that does not exist, or a value outside its range.
            PromptError: a message that holds more than text, or no text at all.
            ContextOverflowError: conversation and answer exceed the window.
        """
        return _as_chat(self._finished(self._model.generate(self._turns(messages), decoding=self._decoding(kwargs))))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation without blocking the event loop; cancelling the task stops the work."""
        generation = await self._model.agenerate(self._turns(messages), decoding=self._decoding(kwargs))
        return _as_chat(self._finished(generation))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer a conversation piece by piece; the message grows, `delta` is what is new."""
        return self._read(self._model.stream(self._turns(messages), decoding=self._decoding(kwargs)), _as_chat)

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Answer a conversation piece by piece without blocking the event loop."""
        stream = await self._model.astream(self._turns(messages), decoding=self._decoding(kwargs))
        return self._aread(stream, _as_chat)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt, which is one user turn; `formatted` says that it already holds the system prompt.

        Raises:
            OptionError: an option that does not exist, or a value outside its range.
            PromptError: a prompt without text.
            ContextOverflowError: prompt and answer exceed the window.
        """
        decoding = self._decoding(kwargs)
        return self._finished(self._model.generate(self._prompt(prompt, formatted), decoding=decoding))

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt without blocking the event loop; cancelling the task stops the work."""
        decoding = self._decoding(kwargs)
        return self._finished(await self._model.agenerate(self._prompt(prompt, formatted), decoding=decoding))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Answer a prompt piece by piece; `text` grows, `delta` is what is new."""
        decoding = self._decoding(kwargs)
        return self._read(self._model.stream(self._prompt(prompt, formatted), decoding=decoding), _as_completion)

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """Answer a prompt piece by piece without blocking the event loop."""
        decoding = self._decoding(kwargs)
        stream = await self._model.astream(self._prompt(prompt, formatted), decoding=decoding)
        return self._aread(stream, _as_completion)

    def _decoding(self, overrides: Mapping[str, Any]) -> Decoding:
        """Return this object's options, read now since they are settable, with those of one call over them."""
        own = {option.name: getattr(self, option.name) for option in fields(Decoding)}
        return Decoding(**own).with_options(**overrides)

    def _turns(self, messages: Sequence[ChatMessage]) -> list[Message]:
        turns = [_turn(message, index) for index, message in enumerate(messages)]
        # The framework's predict() has already put the system prompt in front; a direct chat() has not.
        return turns if not self.system_prompt or self._system()[0] in turns[:1] else [*self._system(), *turns]

    def _prompt(self, prompt: str, formatted: bool) -> list[Message]:
        return [*([] if formatted else self._system()), Message("user", prompt)]

    def _system(self) -> list[Message]:
        return [Message("system", self.system_prompt)] if self.system_prompt else []

    def _read(
        self, stream: GenerationStream, shape: Callable[[CompletionResponse], Response]
    ) -> Generator[Response, None, None]:
        text = ""
        with stream:
            for chunk in stream:
                text += chunk.text
                if _is_news(chunk):
                    yield shape(self._piece(text, chunk))

    async def _aread(
        self, stream: GenerationStream, shape: Callable[[CompletionResponse], Response]
    ) -> AsyncGenerator[Response, None]:
        text = ""
        async with stream:
            async for chunk in stream:
                text += chunk.text
                if _is_news(chunk):
                    yield shape(self._piece(text, chunk))

    def _piece(self, text: str, chunk: GenerationChunk) -> CompletionResponse:
        raw = None if chunk.generation is None else self._raw(chunk.generation)
        return CompletionResponse(text=text, delta=chunk.text, logprobs=_logprobs(chunk.logprobs), raw=raw)

    def _finished(self, generation: Generation) -> CompletionResponse:
        logprobs = _logprobs(generation.logprobs)
        return CompletionResponse(text=generation.text, logprobs=logprobs, raw=self._raw(generation))

    def _raw(self, generation: Generation) -> dict[str, Any]:
        usage = generation.usage
        return {
            "model": self.model_name,
            "finish_reason": generation.finish_reason,
            "usage": {**asdict(usage), "total_tokens": usage.total_tokens},
            "timings": asdict(generation.timings),
        }


def _turn(message: ChatMessage, index: int) -> Message:
    for block in message.blocks:
        if not isinstance(block, TextBlock):
            raise PromptError(
                f"Message {index} holds a block of type {block.block_type!r}; this model reads only text. Remove it, "
                "or put what it says into a TextBlock."
            )
    return Message(_ROLES[message.role], message.content or "")


def _as_chat(response: CompletionResponse) -> ChatResponse:
    message = ChatMessage(role=MessageRole.ASSISTANT, content=response.text)
    return ChatResponse(message=message, delta=response.delta, logprobs=response.logprobs, raw=response.raw)


def _as_completion(response: CompletionResponse) -> CompletionResponse:
    return response


def _is_news(chunk: GenerationChunk) -> bool:
    """Whether a chunk has anything to show; text that may become a stop string is held back."""
    return bool(chunk.text or chunk.logprobs or chunk.generation)


def _logprobs(tokens: Sequence[TokenLogprob]) -> list[list[LogProb]] | None:
    """Return one list a token: the token chosen, then the alternatives asked for."""
    if not tokens:
        return None
    pairs = [[(token.token, token.logprob), *token.alternatives] for token in tokens]
    return [[LogProb(token=text, logprob=logprob) for text, logprob in pair] for pair in pairs]
