"""GritSynthesizer: LlamaIndex's response synthesizer that hands documents to the model one by one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from types import NoneType
from typing import Any

from llama_index.core import Settings
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, MessageRole
from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.callbacks import CallbackManager
from llama_index.core.indices.prompt_helper import PromptHelper
from llama_index.core.llms import LLM
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.response_synthesizers import BaseSynthesizer, CompactAndRefine
from llama_index.core.response_synthesizers.base import QueryTextType
from llama_index.core.schema import NodeWithScore
from llama_index.core.types import RESPONSE_TEXT_TYPE

from grit_integrations.errors import OptionError
from grit_integrations.llama_index.arguments import callbacks, check_kind, check_model_class
from grit_integrations.llama_index.documents import NodeText
from grit_integrations.llama_index.generation import PreparedDocuments
from grit_integrations.llama_index.llm import GritLLM
from grit_integrations.llama_index.messages import check_messages
from grit_integrations.llama_index.quotes import QuotedNodes
from grit_integrations.options import Caching, check_caching
from grit_integrations.prompts.formats import as_list, check_characters

logger = logging.getLogger(__name__)

_QUOTED = "_quoted_nodes"  # how `synthesize` tells `get_response` about the nodes, of which it sees only texts


@dataclass(frozen=True, slots=True)
class _Given:
    """What one answer is made from.

    Attributes:
        documents: the texts that are not blank.
        places: which of all texts they are.
        options: those of the language model's call.
        quoted: the nodes behind the texts, if the answer quotes them.
    """

    documents: list[str]
    places: list[int]
    options: dict[str, Any]
    quoted: QuotedNodes | None

    def note(self, response: CompletionResponse | ChatResponse) -> None:
        """Take down what a response quotes."""
        if self.quoted is not None:
            self.quoted.note(response.additional_kwargs.get("quotes", ()), self.places)


class GritSynthesizer(BaseSynthesizer):
    """Answer from retrieved documents that keep their boundaries, so that what was read once is not read again.

    Other synthesizers join the documents into one prompt, strip and split them. This one gives them to the model as
    they are, in GRIT's own format; each starts from its cached keys and values. Put it into any query engine:
    `index.as_query_engine(response_synthesizer=GritSynthesizer())`.

    What does not fit into the window, and structured output, is left to `fallback`, and a line in the log says so.
    Arguments of `synthesize` other than query and nodes are options of the language model's call.

    Args:
        llm: a `GritLLM`, or a structured one around it; by default that of `Settings`.
        streaming: give responses that stream.
        caching: another mode than the language model's.
        query_instruction: what questions were embedded under (for the `query` modes of caching); by default what the
            checkpoint says.
        chat_history: the messages before each question, such as a system message and earlier turns.
        fallback: who answers what this one cannot; by default `CompactAndRefine` with the same `llm`.
        callback_manager: the framework's callbacks.
        prompt_helper: how the default `fallback` packs its prompts.
        output_cls: a pydantic class that answers are parsed into, by the default `fallback`.
        empty_response: what is answered if there is no document with any text.

    Raises:
        OptionError: a language model that is no `GritLLM`, or a mode that does not exist.

    Example:
        >>> from grit_integrations.llama_index import GritLLM, GritSynthesizer
        >>> synthesizer = GritSynthesizer(GritLLM("grit-mini", max_new_tokens=4))
        >>> isinstance(synthesizer.get_response("What pumps the blood?", ["The heart pumps blood."]), str)
        True
    """

    def __init__(
        self,
        llm: LLM | None = None,
        *,
        streaming: bool = False,
        caching: Caching | None = None,
        query_instruction: str | None = None,
        chat_history: Sequence[ChatMessage] = (),
        fallback: BaseSynthesizer | None = None,
        callback_manager: CallbackManager | None = None,
        prompt_helper: PromptHelper | None = None,
        output_cls: type[BaseModel] | None = None,
        empty_response: str | None = None,
    ) -> None:
        if caching is not None:
            check_caching(caching)
        check_messages(chat_history)
        check_kind("query_instruction", query_instruction, str, NoneType)
        check_kind("fallback", fallback, BaseSynthesizer, NoneType)
        check_kind("prompt_helper", prompt_helper, PromptHelper, NoneType)
        check_kind("streaming", streaming, bool)
        check_model_class("output_cls", output_cls)
        check_kind("empty_response", empty_response, str, NoneType)
        llm = default_llm() if llm is None else llm
        self._grit_llm = _innermost(llm)
        self._options = {"caching": caching, "query_instruction": query_instruction}
        self._chat_history = list(chat_history)
        self._fallback = fallback
        super().__init__(
            llm,
            callback_manager=None if callback_manager is None else callbacks(callback_manager),
            prompt_helper=prompt_helper,
            streaming=streaming,
            output_cls=output_cls,
            empty_response=empty_response,
        )

    def synthesize(
        self,
        query: QueryTextType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        """Answer from nodes. What a quoted answer quotes is in `metadata["quotes"]` of the response.

        Only the nodes' own text is quoted, not the metadata around it. Each quote has its `text`, the `node_id`, and
        `start` and `end` in the node's text; those of a streaming response are there when it has been read.

        Raises:
            OptionError: an option that does not exist, or a quote as structured output.
            ContextOverflowError: nodes to quote from exceed the window.
        """
        quoted = self._quoted(nodes, response_kwargs)
        response = super().synthesize(query, nodes, additional_source_nodes, **response_kwargs, **_passed(quoted))
        return _with_quotes(response, quoted)

    async def asynthesize(
        self,
        query: QueryTextType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        """Answer without blocking the event loop; otherwise like `synthesize`."""
        quoted = self._quoted(nodes, response_kwargs)
        passed = _passed(quoted)
        response = await super().asynthesize(query, nodes, additional_source_nodes, **response_kwargs, **passed)
        return _with_quotes(response, quoted)

    def get_response(self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any) -> RESPONSE_TEXT_TYPE:
        """Answer `query_str` from the chunks that have any text.

        Raises:
            OptionError: an option that does not exist, or a value outside its range.
            PromptError: a query without text.
        """
        given = _given(text_chunks, response_kwargs)
        if not given.documents:
            return self._empty_response_generator() if self._streaming else self._empty_response
        prepared = self._prepared(query_str, given)
        if prepared is None:
            return self._other().get_response(query_str, given.documents)
        answer = self._call("stream_" if self._streaming else "", query_str, given, prepared)
        return _deltas(answer, given) if self._streaming else _text(answer, given)

    async def aget_response(
        self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any
    ) -> RESPONSE_TEXT_TYPE:
        """Answer without blocking the event loop; otherwise like `get_response`."""
        given = _given(text_chunks, response_kwargs)
        if not given.documents:
            return self._empty_response_agenerator() if self._streaming else self._empty_response
        prepared = await asyncio.to_thread(self._prepared, query_str, given)
        if prepared is None:
            return await self._other().aget_response(query_str, given.documents)
        answer = await self._call("astream_" if self._streaming else "a", query_str, given, prepared)
        return _adeltas(answer, given) if self._streaming else _text(answer, given)

    def _get_prompts(self) -> PromptDictType:
        return {}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        if prompts:
            raise OptionError(
                f"The prompts {', '.join(sorted(prompts))} cannot be set: the model reads documents in the format that "
                "it was trained with. Put instructions into the language model's system_prompt."
            )

    def _quoted(self, nodes: Sequence[NodeWithScore], options: Mapping[str, Any]) -> QuotedNodes | None:
        return QuotedNodes([NodeText.of(node) for node in nodes]) if self._quotes(options) else None

    def _quotes(self, options: Mapping[str, Any]) -> bool:
        """Whether a call with these options quotes."""
        return self._grit_llm._call_of(options).decoding.quoting is not None

    def _prepared(self, query: str, given: _Given) -> PreparedDocuments | None:
        """Return the documents with the prompt; `None`, and a line in the log, if another synthesizer has to answer."""
        structured = self._output_cls is not None or isinstance(self._llm, StructuredLLM)
        quotes = self._quotes(given.options)
        if structured and quotes:
            raise OptionError("A quote cannot be structured output. Leave out quote, or the output class.")
        if structured:
            logger.info("Structured output is asked for: the documents are joined into a prompt and not cached singly.")
            return None
        options = {"documents": given.documents, **self._options, **given.options}
        if given.quoted is not None:
            nodes = [given.quoted.nodes[place] for place in given.places]
            options["quotable"] = [(node.start, node.end) for node in nodes]
        prepared = self._grit_llm.prepare(self._messages(query) if self._chat_history else query, **options)
        decoding = self._grit_llm._call_of(given.options).decoding
        missing = prepared.prompt.missing(decoding.max_new_tokens)
        if not missing or quotes:  # another synthesizer would rewrite what is quoted; what does not fit is an error
            return prepared
        logger.warning(
            "%d documents and the answer exceed the model's window of %d tokens by %d: they are packed into several "
            "prompts. Retrieve fewer documents, or ask for fewer tokens.",
            len(given.documents),
            prepared.prompt.window,
            missing,
        )
        return None

    def _other(self) -> BaseSynthesizer:
        return self._fallback or CompactAndRefine(
            llm=self._llm,
            prompt_helper=self._prompt_helper,
            output_cls=self._output_cls,
            streaming=self._streaming,
        )

    def _call(self, prefix: str, query: str, given: _Given, documents: PreparedDocuments) -> Any:
        """Call the language model: one of its `chat` methods behind a history, else one of its `complete` methods."""
        options = {**given.options, "documents": documents}
        if self._chat_history:
            return getattr(self._grit_llm, f"{prefix}chat")(self._messages(query), **options)
        return getattr(self._grit_llm, f"{prefix}complete")(query, **options)

    def _messages(self, query: str) -> list[ChatMessage]:
        return [*self._chat_history, ChatMessage(role=MessageRole.USER, content=query)]


def default_llm() -> LLM:
    """Return the language model of the framework's `Settings`.

    Raises:
        OptionError: there is none.
    """
    if Settings._llm is None:  # asking for Settings.llm would make one of OpenAI's
        raise OptionError("Settings has no language model. Pass llm=GritLLM(...), or call install() first.")
    return Settings.llm  # which also gives it the callbacks of Settings


def _innermost(llm: LLM) -> GritLLM:
    inner = llm.llm if isinstance(llm, StructuredLLM) else llm
    if not isinstance(inner, GritLLM):
        raise OptionError(
            f"The language model is a {type(inner).__name__}; only a GritLLM takes documents. Pass llm=GritLLM(...), "
            "or call install() first."
        )
    return inner


def _given(text_chunks: Sequence[str], options: Mapping[str, Any]) -> _Given:
    chunks = as_list(text_chunks, "texts")
    places = [place for place, chunk in enumerate(chunks) if check_characters(chunk, f"Document {place}").strip()]
    others = {name: value for name, value in options.items() if name != _QUOTED}
    return _Given([chunks[place] for place in places], places, others, options.get(_QUOTED))


def _passed(quoted: QuotedNodes | None) -> dict[str, Any]:
    return {} if quoted is None else {_QUOTED: quoted}


def _with_quotes(response: RESPONSE_TYPE, quoted: QuotedNodes | None) -> RESPONSE_TYPE:
    if quoted is not None:
        response.metadata = {**(response.metadata or {}), "quotes": quoted.quotes}
    return response


def _text(response: CompletionResponse | ChatResponse, given: _Given) -> str:
    given.note(response)
    return response.text if isinstance(response, CompletionResponse) else response.message.content or ""


def _deltas(
    stream: Generator[CompletionResponse | ChatResponse, None, None], given: _Given
) -> Generator[str, None, None]:
    with closing(stream):
        for piece in stream:
            given.note(piece)
            if piece.delta:
                yield piece.delta


async def _adeltas(
    stream: AsyncGenerator[CompletionResponse | ChatResponse, None], given: _Given
) -> AsyncGenerator[str, None]:
    async with aclosing(stream):
        async for piece in stream:
            given.note(piece)
            if piece.delta:
                yield piece.delta
