"""What tests of the LlamaIndex adapters do again and again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from endpoints import DOCUMENTS
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from grit_integrations import GritLM
from grit_integrations.llama_index import GritEmbedding


class Fixed(BaseRetriever):
    """Gives the same nodes to every question."""

    def __init__(self, nodes: list[NodeWithScore]) -> None:
        self.nodes = nodes
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return list(self.nodes)


def scored(*pairs: tuple[str, float | None]) -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text), score=score) for text, score in pairs]


def nodes_of(*texts: str) -> list[NodeWithScore]:
    return scored(*((text, 0.5) for text in texts))


def index_of(grit: GritLM, texts: list[str] = DOCUMENTS, **fields: Any) -> VectorStoreIndex:
    documents = [Document(text=text, metadata={"page": page}, **fields) for page, text in enumerate(texts)]
    return VectorStoreIndex.from_documents(documents, embed_model=GritEmbedding(grit))


def wait_until_idle(running: Callable[[], int]) -> None:
    deadline = time.monotonic() + 10
    while running() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert running() == 0
