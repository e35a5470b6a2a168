"""The reranker suite for LangChain's document compressors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from langchain_core.documents import BaseDocumentCompressor, Document

from grit_integrations.testing.reranking import Passage, RerankerSuite


class LangChainRerankerSuite(RerankerSuite[Document]):
    """Cases for a `BaseDocumentCompressor` that puts documents in order.

    Attributes:
        score_key: where in a document's metadata the score stands.
    """

    score_key: ClassVar[str] = "relevance_score"

    @abstractmethod
    def compressor(self, top_n: int) -> BaseDocumentCompressor:
        """Return the reranker under test, which gives at most `top_n` documents."""

    def item(self, passage: Passage) -> Document:
        """Return a document; a retriever's score stands where the reranker's will."""
        scored = {} if passage.score is None else {self.score_key: passage.score}
        return Document(passage.text, id=passage.id, metadata={**passage.metadata, **scored})

    def passage(self, item: Document) -> Passage:
        """Return what a document holds."""
        metadata = dict(item.metadata)
        score = metadata.pop(self.score_key, None)
        return Passage(item.page_content, metadata, item.id, score)

    def rerank(self, query: str, items: list[Document], *, top_n: int) -> Sequence[Document]:
        """Return what the compressor does with documents."""
        return self.compressor(top_n).compress_documents(items, query)

    async def arerank(self, query: str, items: list[Document], *, top_n: int) -> Sequence[Document]:
        """Return what the compressor's async form does with documents."""
        return await self.compressor(top_n).acompress_documents(items, query)
