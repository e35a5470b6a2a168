"""GritRetriever: any LlamaIndex retriever, whose documents the model then knows."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.indices.base import BaseIndex
from llama_index.core.schema import NodeWithScore, QueryBundle

from grit_integrations.errors import GritError
from grit_integrations.llama_index.arguments import callbacks, check_kind
from grit_integrations.llama_index.documents import embedded_text, read_text
from grit_integrations.llama_index.source import as_grit, that_of_settings
from grit_integrations.model import GritLM
from grit_integrations.options import check_prefer_cached

logger = logging.getLogger(__name__)


class GritRetriever(BaseRetriever):
    """Retrieve as another retriever does, and tell the model which documents to expect.

    Wherever a later prompt holds a retrieved document verbatim, in any chain, agent or chat history, the document
    starts from its cached keys and values; those on disk are brought into memory meanwhile. The nodes are those of the
    other retriever, untouched. A document that the model cannot read never makes retrieval fail.

    Args:
        retriever: a retriever, or an index, whose default retriever is taken.
        model: a `GritLM`, or a name; by default that of the `GritLLM` in `Settings`, else the environment's
            `GRIT_MODEL`, else `"grit-mini"`.
        prefer_cached: how much better a document must score to stand before one whose keys and values are stored. 0
            leaves the order as it is; so do nodes without scores, or in an order that is not that of the scores.
        callback_manager: the framework's callbacks; by default the other retriever's.
        **options: with a name, the arguments of `GritLM`.

    Raises:
        OptionError: an option that does not exist, or a value outside its range.

    Example:
        >>> from grit_integrations.llama_index import GritEmbedding, GritRetriever
        >>> from llama_index.core import Document, VectorStoreIndex
        >>> embedding = GritEmbedding("grit-mini")
        >>> index = VectorStoreIndex.from_documents([Document(text="The heart pumps blood.")], embed_model=embedding)
        >>> retriever = GritRetriever(index.as_retriever(), model=embedding.grit)
        >>> [node.text for node in retriever.retrieve("What pumps the blood?")]
        ['The heart pumps blood.']
    """

    def __init__(
        self,
        retriever: BaseRetriever | BaseIndex[Any],
        model: GritLM | str | Path | None = None,
        *,
        prefer_cached: float = 0.0,
        callback_manager: CallbackManager | None = None,
        **options: Any,
    ) -> None:
        self._prefer_cached = check_prefer_cached(prefer_cached)
        check_kind("retriever", retriever, BaseRetriever, BaseIndex)
        self._retriever = retriever.as_retriever() if isinstance(retriever, BaseIndex) else retriever
        self._model = as_grit(that_of_settings(options) if model is None else model, options, GritRetriever)
        self._warned = False
        self._retriever._check_callback_manager()  # some of the framework's own never ran their base's constructor
        super().__init__(self._retriever.callback_manager if callback_manager is None else callbacks(callback_manager))

    @property
    def grit(self) -> GritLM:
        """The model that is told about the documents."""
        return self._model

    # The other retriever's public methods would announce a second retrieval, so its inner ones are called.

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        inner = self._retriever
        found = inner._handle_recursive_retrieval(query_bundle, inner._retrieve(query_bundle))
        return self._ready(found)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        inner = self._retriever
        if type(inner)._aretrieve is BaseRetriever._aretrieve:  # which is the blocking one
            found = await asyncio.to_thread(inner._retrieve, query_bundle)
        else:
            found = await inner._aretrieve(query_bundle)
        found = await inner._ahandle_recursive_retrieval(query_bundle, found)
        return await asyncio.to_thread(self._ready, found)

    def _ready(self, found: list[NodeWithScore]) -> list[NodeWithScore]:
        """Return nodes in their final order, known to the model and on their way into memory."""
        self._check_texts(found)
        ordered = found
        try:  # retrieval is worth having without a cache
            ordered = self._stored_first(found)
            texts = [text for node in ordered if (text := read_text(node.node)).strip()]
            self._model.remember_documents(texts)
            self._model.prefetch(texts)
        except GritError as error:
            logger.info("The retrieved documents were not prefetched: %s", error)
        return ordered

    def _stored_first(self, found: list[NodeWithScore]) -> list[NodeWithScore]:
        scores = [node.score for node in found if node.score is not None]
        if len(scores) < len(found):
            return found
        texts = [read_text(node.node) for node in found]
        return [found[place] for place in self._model.prefer_stored(texts, scores, margin=self._prefer_cached)]

    def _check_texts(self, found: list[NodeWithScore]) -> None:
        """Warn once if documents are embedded with other words than they are answered from."""
        if self._warned or not self._model.settings.embedding_keeps:
            return
        other = next((node for node in found if embedded_text(node.node) != read_text(node.node)), None)
        if other is not None:
            self._warned = True
            logger.warning(
                "Node %s is embedded with another text than the model answers from, so what was read for its embedding "
                "cannot be reused. Give its documents equal excluded_embed_metadata_keys and "
                "excluded_llm_metadata_keys.",
                other.node.node_id,
            )
