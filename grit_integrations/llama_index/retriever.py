"""GritRetriever: any LlamaIndex retriever, whose documents the model then knows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any

from llama_index.core import Settings
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.indices.base import BaseIndex
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle

from grit_integrations.errors import GritError, OptionError
from grit_integrations.llama_index.llm import GritLLM
from grit_integrations.llama_index.options import as_grit
from grit_integrations.model import GritLM
from grit_integrations.options import MODES

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
        if not (isinstance(prefer_cached, int | float) and isfinite(prefer_cached) and prefer_cached >= 0):
            raise OptionError(f"prefer_cached={prefer_cached!r} is not possible. It must be 0 or more.")
        self._retriever = retriever.as_retriever() if isinstance(retriever, BaseIndex) else retriever
        self._model = as_grit(that_of_settings(options) if model is None else model, options, GritRetriever)
        self._prefer_cached = float(prefer_cached)
        self._warned = False
        super().__init__(callback_manager or self._retriever.callback_manager)

    @property
    def grit(self) -> GritLM:
        """The model that is told about the documents."""
        return self._model

    # The other retriever's public methods would announce a second retrieval, so its inner ones are called.

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        inner = self._retriever
        found = inner._handle_recursive_retrieval(query_bundle, inner._retrieve(query_bundle))
        return self._expect(found)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        inner = self._retriever
        if type(inner)._aretrieve is BaseRetriever._aretrieve:  # which is the blocking one
            found = await asyncio.to_thread(inner._retrieve, query_bundle)
        else:
            found = await inner._aretrieve(query_bundle)
        found = await inner._ahandle_recursive_retrieval(query_bundle, found)
        return await asyncio.to_thread(self._expect, found)

    def _expect(self, found: list[NodeWithScore]) -> list[NodeWithScore]:
        """Tell the model about the documents, and return them in the order that is preferred."""
        if not found:
            return found
        self._check_texts(found)
        try:
            ordered = self._ordered(found)
            texts = [text for node in ordered if (text := _text(node.node)).strip()]
            self._model.remember_documents(texts)
            self._model.prefetch(texts)
        except GritError as error:
            logger.info("The retrieved documents were not prefetched: %s", error)
            return found
        return ordered

    def _ordered(self, found: list[NodeWithScore]) -> list[NodeWithScore]:
        scores = [node.score for node in found if node.score is not None]
        ranked = len(scores) == len(found) and all(left >= right for left, right in pairwise(scores))
        if not self._prefer_cached or not ranked:
            return found
        worth = [score + self._prefer_cached * self._is_stored(node) for score, node in zip(scores, found, strict=True)]
        return [found[index] for index in sorted(range(len(found)), key=lambda index: -worth[index])]

    def _is_stored(self, node: NodeWithScore) -> bool:
        try:
            return self._model.stored([_text(node.node)])[0]
        except GritError:
            return False

    def _check_texts(self, found: list[NodeWithScore]) -> None:
        """Warn once if documents are embedded with other words than they are answered from."""
        if self._warned or not MODES[self._model.caching].embeds_documents:
            return
        other = next((node for node in found if node.node.get_content(MetadataMode.EMBED) != _text(node.node)), None)
        if other is not None:
            self._warned = True
            logger.warning(
                "Node %s is embedded with another text than the model answers from, so what was read for its embedding "
                "cannot be reused. Give its documents equal excluded_embed_metadata_keys and "
                "excluded_llm_metadata_keys.",
                other.node.node_id,
            )


def that_of_settings(options: Mapping[str, Any]) -> GritLM | None:
    """Return the model of the `GritLLM` in `Settings`, unless there is none or options ask for another."""
    return Settings._llm.grit if not options and isinstance(Settings._llm, GritLLM) else None


def _text(node: BaseNode) -> str:
    return node.get_content(MetadataMode.LLM)
