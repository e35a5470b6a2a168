"""The reranker suite for LlamaIndex's node postprocessors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, TextNode

from grit_integrations.testing.reranking import Passage, RerankerSuite


class LlamaIndexRerankerSuite(RerankerSuite[NodeWithScore]):
    """Cases for a `BaseNodePostprocessor` that puts nodes in order."""

    @abstractmethod
    def postprocessor(self, top_n: int) -> BaseNodePostprocessor:
        """Return the reranker under test, which gives at most `top_n` nodes."""

    def item(self, passage: Passage) -> NodeWithScore:
        """Return a node with the score that a retriever gave it."""
        node = TextNode(text=passage.text, metadata=dict(passage.metadata))
        if passage.id is not None:
            node.id_ = passage.id
        return NodeWithScore(node=node, score=passage.score)

    def passage(self, item: NodeWithScore) -> Passage:
        """Return what a node holds."""
        return Passage(item.node.get_content(), dict(item.node.metadata), item.node.node_id, item.score)

    def rerank(self, query: str, items: list[NodeWithScore], *, top_n: int) -> Sequence[NodeWithScore]:
        """Return what the postprocessor does with nodes."""
        return self.postprocessor(top_n).postprocess_nodes(items, query_str=query)

    async def arerank(self, query: str, items: list[NodeWithScore], *, top_n: int) -> Sequence[NodeWithScore]:
        """Return what the postprocessor's async form does with nodes."""
        return await self.postprocessor(top_n).apostprocess_nodes(items, query_str=query)
