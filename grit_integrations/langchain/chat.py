"""ChatGrit: the generative half of a GritLM as a LangChain chat model.

Input: `messages.as_turns` turns LangChain's messages into turns, `documents.known_texts` finds the documents that
tools left beside them, `options.GenerationOptions._request` settles the options, `documents=` among them. Output: the
functions at the end shape the core's chunks and generations. The methods between only hand over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Self, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import ConfigDict, model_validator

from grit_integrations import __version__
from grit_integrations.errors import EmptyTextError, GritError
from grit_integrations.langchain.documents import known_texts
from grit_integrations.langchain.messages import as_turns
from grit_integrations.langchain.options import (
    GenerationOptions,
    Request,
    openai_logprobs,
    response_metadata,
    says_something,
)
from grit_integrations.langchain.quotes import as_citations
from grit_integrations.model import GritLM
from grit_integrations.results import Generation, GenerationChunk, Usage


class ChatGrit(GenerationOptions, BaseChatModel):
    """Chat with GritLM in this process: no server, no key, the weights shared with `GritEmbeddings`.

    Instantiate:
        Constructing costs nothing; the model loads at first use.

        >>> from grit_integrations.langchain import ChatGrit
        >>> chat = ChatGrit(temperature=0, max_tokens=16)

    Invoke:
        Messages may come in any order of roles; their content is text or text blocks.

        >>> answer = chat.invoke([("system", "Answer briefly."), ("human", "What pumps blood?")])
        >>> answer.type
        'ai'

    Stream:
        Leaving the loop early stops the generation.

        >>> "".join(chunk.text for chunk in chat.stream("What pumps blood?")) == chat.invoke("What pumps blood?").text
        True

    Async:
        >>> import asyncio
        >>> answers = asyncio.run(chat.abatch(["What pumps blood?", "Why do stars shine?"]))
        >>> len(answers)
        2

    Options of one call:
        They win over those of the instance, `model` included.

        >>> chat.invoke("What pumps blood?", max_tokens=2).usage_metadata["output_tokens"] <= 2
        True

    Answer from documents:
        Documents or strings, in the words of the GRIT paper. What is read of them once is not read again; documents
        in a `ToolMessage.artifact`, and those that a `GritRetriever` returned, are found in the prompt too.

        >>> from langchain_core.documents import Document
        >>> heart = Document("The heart is a muscle that pumps blood through the vessels of the body. " * 4)
        >>> first = chat.invoke("What pumps blood?", documents=[heart])
        >>> second = chat.invoke("What is the heart?", documents=[heart])
        >>> second.usage_metadata["input_token_details"]["cache_read"] > 0
        True
        >>> second.text == chat.invoke("What is the heart?", documents=[heart], caching="off").text
        True

    Quote the documents:
        The answer is a span of one document, word for word, and its text block is annotated with a citation.

        >>> quoted = chat.invoke("What pumps blood?", documents=[heart], quote=True)
        >>> quoted.text in heart.page_content
        True
        >>> quoted.content_blocks[0]["annotations"][0]["cited_text"] == quoted.text
        True

    Token usage:
        >>> usage = answer.usage_metadata
        >>> usage["input_tokens"] + usage["output_tokens"] == usage["total_tokens"]
        True

    Response metadata:
        >>> sorted(answer.response_metadata)
        ['cache', 'finish_reason', 'model_name', 'model_provider', 'timings']

    Raises:
        OptionError: an unknown option of a call, or a value outside its range, before any work.
        PromptError: messages that cannot become a prompt, such as images.
        ContextOverflowError: prompt and `max_tokens` together exceed the model's window.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())

    @model_validator(mode="after")
    def _set_chat_grit_version(self) -> Self:
        self._add_version("grit_integrations", __version__)
        return self

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Return how many tokens the whole prompt of `messages` has; `tools` add none, since this model takes none."""
        try:
            return self.grit.count_message_tokens(as_turns(messages))
        except EmptyTextError:
            return 0

    @property
    def _llm_type(self) -> str:
        return "grit-chat"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return self._identity(self._request(None, {}))

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._trace("chat", stop, kwargs)

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """Return the key of answers in LangChain's cache: the request as settled, whoever set which option."""
        return str(sorted({"_type": self._llm_type, **self._answer_key(stop, kwargs)}.items()))

    def _resolve_model_profile(self) -> ModelProfile | None:
        """Return what the model can do. Its window is read from a file that is here, never fetched."""
        profile = ModelProfile(
            name=self.grit.name,
            open_weights=True,
            text_inputs=True,
            image_inputs=False,
            pdf_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            text_outputs=True,
            reasoning_output=False,
            tool_calling=False,
            structured_output=False,
        )
        window = _window_without_network(self.grit)
        return profile if window is None else {**profile, "max_input_tokens": window, "max_output_tokens": window}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        request = self._request(stop, kwargs)
        options = request.options(known_texts(messages))
        generation = request.grit.generate(as_turns(messages), request.documents, **options)
        return _result(generation, request)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        request = self._request(stop, kwargs)
        options = request.options(known_texts(messages))
        generation = await request.grit.agenerate(as_turns(messages), request.documents, **options)
        return _result(generation, request)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        request = self._request(stop, kwargs)
        options = request.options(known_texts(messages))
        with request.grit.stream(as_turns(messages), request.documents, **options) as stream:
            for piece in filter(says_something, stream):
                chunk = _chunk(piece, request)
                if run_manager:
                    run_manager.on_llm_new_token(piece.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        request = self._request(stop, kwargs)
        options = request.options(known_texts(messages))
        async with await request.grit.astream(as_turns(messages), request.documents, **options) as stream:
            async for piece in stream:
                if not says_something(piece):
                    continue
                chunk = _chunk(piece, request)
                if run_manager:
                    await run_manager.on_llm_new_token(piece.text, chunk=chunk)
                yield chunk

    async def _agenerate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if self._answers_are_cached():  # LangChain asks for the key on the event loop: read the checkpoint before
            await asyncio.to_thread(self._answer_key, stop, kwargs)
        return await super()._agenerate_with_cache(messages, stop=stop, run_manager=run_manager, **kwargs)


def _result(generation: Generation, request: Request) -> ChatResult:
    message = AIMessage(
        content=cast("Any", _content(generation.text, generation, request)),
        usage_metadata=_usage(generation.usage),
        response_metadata={**response_metadata(generation, request), **openai_logprobs(generation.logprobs)},
    )
    return ChatResult(generations=[ChatGeneration(message=message)])


def _chunk(piece: GenerationChunk, request: Request) -> ChatGenerationChunk:
    content = _content(piece.text, piece.generation, request)
    if isinstance(content, list):
        content[0]["index"] = 0  # pieces of one block merge into it
    message = AIMessageChunk(content=cast("Any", content), response_metadata=openai_logprobs(piece.logprobs))
    if piece.generation is not None:  # the last one: what merging must find exactly once
        message.usage_metadata = _usage(piece.generation.usage)
        message.response_metadata.update(response_metadata(piece.generation, request))
        message.chunk_position = "last"
    return ChatGenerationChunk(message=message)


def _content(text: str, generation: Generation | None, request: Request) -> str | list[dict[str, Any]]:
    """Return a text as it is; of a quoted answer, a text block, whose citations come with the whole generation."""
    if request.decoding.quoting is None:
        return text
    quotes = () if generation is None else generation.quotes
    annotations = {"annotations": as_citations(quotes, request.passages)} if quotes else {}
    return [{"type": "text", "text": text, **annotations}]


def _usage(usage: Usage) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        input_token_details=InputTokenDetails(
            cache_read=usage.cache_read_tokens, cache_creation=usage.cache_creation_tokens
        ),
    )


def _window_without_network(grit: GritLM) -> int | None:
    known = grit if grit.is_loaded else GritLM(grit.source, revision=grit.revision, local_files_only=True)
    try:
        return known.window
    except GritError:
        return None
