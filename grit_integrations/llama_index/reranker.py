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
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from llama_index_instrumentation import get_dispatcher

from grit_integrations.errors import OptionError, PromptError
from grit_integrations.llama_index.options import GritComponent, as_grit
from grit_integrations.llama_index.retriever import that_of_settings
from grit_integrations.model import GritLM
from grit_integrations.options import Method, Order, Reranking, RerankingOptions, Score
from grit_integrations.results import Ranked

_dispatcher = get_dispatcher(__name__)


class RerankedNode(NodeWithScore):
    """A node with the reranker's score, and the retriever's beside it: metadata would change what the model reads."""

    retrieval_score: float | None = Field(default=None, description="The score before reranking.")


class GritRerank(GritComponent, BaseNodePostprocessor):
    """Put nodes in order of relevance to the query.

    Nodes come back as new `NodeWithScore` objects around the same, unchanged nodes: `score` is the reranker's, the
    best first, equal ones as they were; `retrieval_score` is the one before.

    The model judges `MetadataMode.LLM` text, since that is what `GritSynthesizer` and `GritRetriever` take for the
    document: with `order="passage-first"` or `"passage-block"` the keys and values of `caching="prefix"` and `"doc"`
    serve both. `method="embedding"` compares `MetadataMode.EMBED` text, as retrieval did.

    Args:
        model: a `GritLM`, or a name that is loaded at first use; by default that of the `GritLLM` in `Settings`, else
            the environment's `GRIT_MODEL`, else `"grit-mini"`.
        top_n: at most so many nodes come back; `None` keeps all of them.
        method: `"pointwise"` judges each node by itself; `"listwise"` lets the model write an order; `"embedding"`
            compares vectors. `Reranking` tells more about this and the options below.
        order: what stands first in a pointwise prompt; by default what the checkpoint was trained for.
        score: of pointwise: P(yes) in 0..1, or the raw `"logit"`.
        cosine: of pointwise: so many times the cosine of query and node is added, before the score is a probability.
        passage_tokens: what is longer loses its end; by default as much as fits into the window is read.
        window: nodes in one listwise prompt.
        step: nodes by which the listwise window moves.
        instruction: what the query is embedded under, for `method="embedding"` and `cosine`.
        callback_manager: the framework's callbacks; query engines set their own.
        **options: with a name, the arguments of `GritLM`.

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

    top_n: int | None = Field(default=None, description="At most so many nodes come back; None keeps all.")
    method: Method = Field(default="pointwise", description="How nodes are compared.")
    order: Order | None = Field(default=None, description="What stands first in a pointwise prompt.")
    score: Score = Field(default="probability", description="What a pointwise score is.")
    cosine: float = Field(default=0.0, description="How much the cosine of query and node adds.")
    passage_tokens: int | None = Field(default=None, description="What is longer loses its end.")
    window: int = Field(default=20, description="Nodes in one listwise prompt.")
    step: int = Field(default=10, description="Nodes by which the listwise window moves.")
    instruction: str = Field(default="", description="What the query is embedded under.")

    def __init__(
        self,
        model: GritLM | str | Path | None = None,
        *,
        top_n: int | None = None,
        method: Method = "pointwise",
        order: Order | None = None,
        score: Score = "probability",
        cosine: float = 0.0,
        passage_tokens: int | None = None,
        window: int = 20,
        step: int = 10,
        instruction: str = "",
        callback_manager: CallbackManager | None = None,
        **options: Any,
    ) -> None:
        if top_n is not None and top_n < 1:
            raise OptionError(f"top_n={top_n} is not possible. Give 1 or more, or None for all.")
        reranking = Reranking(
            method=method,
            order=order,
            score=score,
            cosine=cosine,
            passage_tokens=passage_tokens,
            window=window,
            step=step,
            instruction=instruction,
        )
        super().__init__(
            as_grit(that_of_settings(options) if model is None else model, options, GritRerank),
            top_n=top_n,
            **asdict(reranking),
            callback_manager=callback_manager or CallbackManager([]),
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
            ranked = self._model.rerank(query, texts, top_n=self.top_n, **self._options())
            reranked.extend(_moved(nodes, ranked))
        return reranked

    @_dispatcher.span
    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query, texts = _checked(query_bundle), self._texts(nodes)
        with self._announced(nodes, query) as reranked:
            ranked = await self._model.arerank(query, texts, top_n=self.top_n, **self._options())
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
        mode = MetadataMode.EMBED if self.method == "embedding" else MetadataMode.LLM
        return [node.node.get_content(mode) for node in nodes]

    def _options(self) -> RerankingOptions:
        return {
            "method": self.method,
            "order": self.order,
            "score": self.score,
            "cosine": self.cosine,
            "passage_tokens": self.passage_tokens,
            "window": self.window,
            "step": self.step,
            "instruction": self.instruction,
        }


def _checked(query_bundle: QueryBundle | None) -> str:
    if query_bundle is None:
        raise PromptError("There is no query to put the nodes in order for. Pass query_str, or a query_bundle.")
    return query_bundle.query_str


def _moved(nodes: Sequence[NodeWithScore], ranked: Sequence[Ranked]) -> list[RerankedNode]:
    return [_scored(nodes[found.index], found.score) for found in ranked]


def _scored(given: NodeWithScore, score: float) -> RerankedNode:
    before = given.retrieval_score if isinstance(given, RerankedNode) else given.score
    return RerankedNode(node=given.node, score=score, retrieval_score=before)
