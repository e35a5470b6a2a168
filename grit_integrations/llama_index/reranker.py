"""GritRerank: LlamaIndex's node postprocessor that puts nodes in order with the model that answers from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llama_index.core.bridge.pydantic import Field
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index_instrumentation import get_dispatcher

from grit_integrations.errors import PromptError
from grit_integrations.llama_index.arguments import check_kind
from grit_integrations.llama_index.documents import embedded_text, read_text
from grit_integrations.llama_index.options import RerankingComponent
from grit_integrations.llama_index.source import GritComponent, as_grit, that_of_settings
from grit_integrations.model import GritLM
from grit_integrations.options import check_top_n
from grit_integrations.results import Ranked

_dispatcher = get_dispatcher(__name__)


class RerankedNode(NodeWithScore):
    """A node with the reranker's score, and the retriever's beside it: metadata would change what the model reads."""

    retrieval_score: float | None = Field(default=None, description="The score before reranking.")


class GritRerank(RerankingComponent, GritComponent, BaseNodePostprocessor):
    """Put nodes in order of relevance to the query.

    The options of `Reranking` (`method`, `order`, ...) are fields, and `reranking` is all of them as one value.

    Nodes come back as new `NodeWithScore` objects around the same, unchanged nodes: `score` is the reranker's, the
    best first, equal ones as they were; `retrieval_score` is the one before.

    The model judges `MetadataMode.LLM` text, since that is what `GritSynthesizer` and `GritRetriever` take for the
    document: with `order="passage-first"` or `"passage-block"` the keys and values of `caching="prefix"` and `"doc"`
    serve both. `method="embedding"` compares `MetadataMode.EMBED` text, as retrieval did.

    Args:
        model: a `GritLM`, or a name that is loaded at first use; by default that of the `GritLLM` in `Settings`, else
            the environment's `GRIT_MODEL`, else `"grit-mini"`.
        top_n: at most this many nodes come back; `None` keeps all of them.
        callback_manager: the framework's callbacks; query engines set their own.
        **options: those of `Reranking`, one by one or as `reranking=Reranking(...)`; with a name, the arguments of
            `GritLM`.

    Raises:
        OptionError: an option that does not exist, or a value outside its range. Later: a tokenizer without a single
            token for yes or no.
        PromptError: later: no query, or a node's text with NUL or a lone surrogate; the message names its index.
        ContextOverflowError: later: a query that leaves no room in the window.
        RerankError: later: scores that are not numbers.

    Example:
        >>> from grit_integrations.llama_index import GritEmbedding, GritLLM, GritRerank
        >>> from llama_index.core import Document, VectorStoreIndex
        >>> embedding = GritEmbedding("grit-mini")
        >>> documents = [Document(text="The heart pumps blood."), Document(text="Stars shine by fusion.")]
        >>> index = VectorStoreIndex.from_documents(documents, embed_model=embedding)
        >>> rerank = GritRerank(embedding.grit, top_n=1)
        >>> llm = GritLLM(embedding.grit, max_new_tokens=4)
        >>> engine = index.as_query_engine(llm=llm, similarity_top_k=2, node_postprocessors=[rerank])
        >>> [node] = engine.query("What pumps the blood?").source_nodes
        >>> 0 <= node.score <= 1
        True
    """

    top_n: int | None = Field(default=None, description="At most this many nodes come back; None keeps all.")

    def __init__(
        self,
        model: GritLM | str | Path | None = None,
        *,
        top_n: int | None = None,
        callback_manager: CallbackManager | None = None,
        **options: Any,
    ) -> None:
        check_top_n(top_n)
        reranking = self._taken(options)
        super().__init__(
            as_grit(that_of_settings(options) if model is None else model, options, GritRerank),
            top_n=top_n,
            **reranking,
            callback_manager=callback_manager,
        )

    @classmethod
    def class_name(cls) -> str:
        """Return the name that serialised components carry."""
        return "GritRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query, texts = _checked(query_bundle), self._texts(nodes)
        with self._announced(nodes, query) as reranked:
            ranked = self._model.rerank(query, texts, top_n=self.top_n, **asdict(self.reranking))
            reranked.extend(_moved(nodes, ranked))
        return reranked

    @_dispatcher.span
    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query, texts = _checked(query_bundle), self._texts(nodes)
        with self._announced(nodes, query) as reranked:
            ranked = await self._model.arerank(query, texts, top_n=self.top_n, **asdict(self.reranking))
            reranked.extend(_moved(nodes, ranked))
        return reranked

    @contextmanager
    def _announced(self, nodes: list[NodeWithScore], query: str) -> Iterator[list[NodeWithScore]]:
        """Announce the work, and when it has ended or failed what was put into the list that is given."""
        reranked: list[NodeWithScore] = []
        top_n = len(nodes) if self.top_n is None else self.top_n
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self.model_name,
            EventPayload.QUERY_STR: query,
            EventPayload.TOP_K: top_n,
        }
        _dispatcher.event(ReRankStartEvent(query=query, nodes=nodes, top_n=top_n, model_name=self.model_name))
        try:
            with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
                yield reranked
                event.on_end(payload={EventPayload.NODES: reranked})
        finally:
            _dispatcher.event(ReRankEndEvent(nodes=reranked))

    def _texts(self, nodes: Sequence[NodeWithScore]) -> list[str]:
        text = embedded_text if self.reranking.method == "embedding" else read_text
        return [text(node.node) for node in nodes]


def _checked(query_bundle: QueryBundle | None) -> str:
    if query_bundle is None:
        raise PromptError("There is no query to put the nodes in order for. Pass query_str, or a query_bundle.")
    check_kind("query_bundle", query_bundle, QueryBundle)
    return query_bundle.query_str


def _moved(nodes: Sequence[NodeWithScore], ranked: Sequence[Ranked]) -> list[RerankedNode]:
    return [_scored(nodes[found.index], found.score) for found in ranked]


def _scored(given: NodeWithScore, score: float) -> RerankedNode:
    before = given.retrieval_score if isinstance(given, RerankedNode) else given.score
    return RerankedNode(node=given.node, score=score, retrieval_score=before)
