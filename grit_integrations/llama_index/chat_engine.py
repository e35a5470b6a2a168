"""GritChatEngine: conversations about documents through one GritLM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Self, cast

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.chat_engine import CondensePlusContextChatEngine
from llama_index.core.indices.base import BaseIndex
from llama_index.core.llms import LLM
from llama_index.core.memory import BaseMemory
from llama_index.core.postprocessor.types import BaseNodePostprocessor

from grit_integrations.llama_index.arguments import check_count, check_kind
from grit_integrations.llama_index.llm import GritLLM
from grit_integrations.llama_index.messages import check_messages
from grit_integrations.llama_index.query_engine import as_llm, grit_retriever
from grit_integrations.llama_index.synthesizer import GritSynthesizer, default_llm
from grit_integrations.model import GritLM
from grit_integrations.options import Caching, check_caching
from grit_integrations.prompts.formats import check_text


class GritChatEngine(CondensePlusContextChatEngine):
    """A `CondensePlusContextChatEngine` whose documents start from their cached keys and values.

    The framework's own writes documents and history into a template. This one gives the model the conversation as
    messages and the documents as documents; so a second question about the same documents, behind the same first turns,
    reads only what is new. By default the message itself is what is searched for: rewriting it first
    (`skip_condense=False`) takes another generation each turn. What does not fit into the window is answered by the
    framework's own synthesizer.

    Make one with `from_defaults` or `from_index`; `chat`, `stream_chat`, `achat`, `astream_chat`, `reset` and
    `chat_history` are the framework's.

    Example:
        >>> from grit_integrations import GritLM
        >>> from grit_integrations.llama_index import GritChatEngine, GritEmbedding
        >>> from llama_index.core import Document, VectorStoreIndex
        >>> grit = GritLM.bundled()
        >>> documents = [Document(text="The heart pumps blood.")]
        >>> index = VectorStoreIndex.from_documents(documents, embed_model=GritEmbedding(grit))
        >>> engine = GritChatEngine.from_index(index, grit, max_new_tokens=4)
        >>> first, second = engine.chat("What pumps the blood?"), engine.chat("Does it rest?")
        >>> len(engine.chat_history)
        4
    """

    _caching: Caching | None = None
    _query_instruction: str | None = None

    @classmethod
    def from_defaults(  # type: ignore[override]  # context_prompt: documents have the model's own format here
        cls,
        retriever: BaseRetriever,
        llm: LLM | None = None,
        chat_history: Sequence[ChatMessage] | None = None,
        memory: BaseMemory | None = None,
        system_prompt: str | None = None,
        *,
        caching: Caching | None = None,
        query_instruction: str | None = None,
        skip_condense: bool = True,
        condense_prompt: str | None = None,
        node_postprocessors: Sequence[BaseNodePostprocessor] | None = None,
        verbose: bool = False,
    ) -> Self:
        """Return an engine around `retriever`.

        Args:
            retriever: what finds the nodes; a `GritRetriever` makes the model expect them.
            llm: a `GritLLM`; by default that of `Settings`.
            chat_history: earlier turns.
            memory: where turns are kept; by default in main memory, as many as fit into the window.
            system_prompt: what stands before the conversation.
            caching: another mode than the language model's.
            query_instruction: what questions were embedded under (for the `query` modes of caching); by default as the
                checkpoint says.
            skip_condense: search for the message itself instead of a question rewritten from the conversation.
            condense_prompt: how the question is rewritten.
            node_postprocessors: what filters or reorders nodes.
            verbose: print the rewritten questions.

        Raises:
            OptionError: a language model that is no `GritLLM`, or a mode that does not exist.
        """
        if caching is not None:
            check_caching(caching)
        check_kind("retriever", retriever, BaseRetriever)
        check_kind("node_postprocessors", node_postprocessors, Sequence, NoneType)
        check_kind("memory", memory, BaseMemory, NoneType)
        check_messages([] if chat_history is None else chat_history)
        llm = default_llm() if llm is None else llm
        GritSynthesizer(llm)  # which complains about others now rather than at the first message
        engine = super().from_defaults(
            retriever=retriever,
            llm=llm,
            chat_history=list(chat_history or ()),
            memory=memory,
            system_prompt=system_prompt,
            condense_prompt=condense_prompt,
            skip_condense=skip_condense,
            node_postprocessors=list(node_postprocessors or ()),
            verbose=verbose,
        )
        grit_engine = cast("Self", engine)
        grit_engine._caching, grit_engine._query_instruction = caching, query_instruction
        return grit_engine

    @classmethod
    def from_index(
        cls,
        index: BaseIndex[Any],
        model: GritLM | GritLLM | str | Path | None = None,
        *,
        top_k: int | None = None,
        caching: Caching | None = None,
        system_prompt: str | None = None,
        skip_condense: bool = True,
        **options: Any,
    ) -> Self:
        """Return an engine that retrieves from `index` and answers with `model`.

        Args:
            index: any index; its own embedding model finds the nodes.
            model: a `GritLM`, a `GritLLM`, or a name; by default the `GritLLM` of `Settings`, else as `GritLLM` says.
            top_k: how many nodes are retrieved; `None` takes the index's default.
            caching: another mode than the model's.
            system_prompt: what stands before the conversation.
            skip_condense: search for the message itself instead of a question rewritten from the conversation.
            **options: those of `GritLLM`, such as `max_new_tokens`.

        Raises:
            OptionError: an option that does not exist, or a value outside its range.
        """
        check_kind("index", index, BaseIndex)
        check_count("top_k", top_k)
        llm = as_llm(model, caching=caching, **options)
        return cls.from_defaults(
            grit_retriever(index, llm, top_k=top_k),
            llm,
            caching=caching,
            system_prompt=system_prompt,
            skip_condense=skip_condense,
        )

    def _run_c3(self, message: str, *args: Any, **kwargs: Any) -> Any:
        check_text(message, "The message")  # the framework's retrievers fail on a blank one
        return super()._run_c3(message, *args, **kwargs)

    async def _arun_c3(self, message: str, *args: Any, **kwargs: Any) -> Any:
        check_text(message, "The message")
        return await super()._arun_c3(message, *args, **kwargs)

    def _get_response_synthesizer(  # type: ignore[override]  # the framework names its own class
        self, chat_history: list[ChatMessage], streaming: bool = False
    ) -> GritSynthesizer:
        system = [ChatMessage(role=MessageRole.SYSTEM, content=self._system_prompt)] if self._system_prompt else []
        return GritSynthesizer(
            self._llm,
            streaming=streaming,
            caching=self._caching,
            query_instruction=self._query_instruction,
            chat_history=[*system, *chat_history],
            fallback=super()._get_response_synthesizer(chat_history, streaming=streaming),
            callback_manager=self.callback_manager,
        )
