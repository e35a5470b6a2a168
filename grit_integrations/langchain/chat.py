"""ChatGrit: the generative half of a GritLM as a LangChain chat model.

Input: `messages.as_turns` turns LangChain's messages into turns, `documents.known_texts` finds the documents that
tools left beside them, `generation.GritGenerator` settles the options, `documents=` among them. Output: `responses`
shapes the core's chunks and generations. The methods here only hand over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from pydantic import ConfigDict, model_validator

from grit_integrations import __version__
from grit_integrations.errors import EmptyTextError, GritError
from grit_integrations.langchain.documents import known_texts
from grit_integrations.langchain.generation import GritGenerator
from grit_integrations.langchain.messages import as_turns
from grit_integrations.langchain.responses import chat_chunk, chat_result
from grit_integrations.model import GritLM


class ChatGrit(GritGenerator, BaseChatModel):
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

    if TYPE_CHECKING:

        def __init__(self, **fields: Any) -> None: ...  # type checkers do not see those made of options

    @model_validator(mode="after")
    def _set_chat_grit_version(self) -> Self:
        self._add_version("grit_integrations", __version__)
        return self

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Return how many tokens `invoke` sends for `messages`; `tools` add none, since this model takes none."""
        try:
            known = known_texts(messages)
            return len(self.grit.prompt(as_turns(messages), caching=self.caching, known_documents=known))
        except EmptyTextError:
            return 0

    @property
    def _llm_type(self) -> str:
        return "grit-chat"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return self._identity(self._call_of(None, {}))

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
        call = self._call_of(stop, kwargs)
        generation = call.stream(as_turns(messages), known_texts(messages)).result()
        return chat_result(generation, call)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call_of(stop, kwargs)
        stream = await call.astream(as_turns(messages), known_texts(messages))
        return chat_result(await stream.aresult(), call)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = self._call_of(stop, kwargs)
        with call.stream(as_turns(messages), known_texts(messages)) as stream:
            for piece in stream:
                if piece.is_empty:
                    continue
                chunk = chat_chunk(piece, call)
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
        call = self._call_of(stop, kwargs)
        async with await call.astream(as_turns(messages), known_texts(messages)) as stream:
            async for piece in stream:
                if piece.is_empty:
                    continue
                chunk = chat_chunk(piece, call)
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


def _window_without_network(grit: GritLM) -> int | None:
    known = grit if grit.is_loaded else GritLM.named(grit.source, revision=grit.revision, local_files_only=True)
    try:
        return known.window
    except GritError:
        return None
