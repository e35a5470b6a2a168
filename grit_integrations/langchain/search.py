"""Search in any vector store, with scores that mean the same whatever the store: the cosine of query and document."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from grit_integrations.errors import GritError, OptionError
from grit_integrations.langchain.known_stores import cosine_of_score
from grit_integrations.langchain.scores import scored

if TYPE_CHECKING:
    from grit_integrations.langchain.embeddings import GritEmbeddings

logger = logging.getLogger(__name__)

Hits = list[tuple[Document, float | None]]  # what the store says of each document, on a scale of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSearch:
    """One search in a vector store.

    Attributes:
        store: where to search.
        embeddings: the store's own, if they are a GritLM's.
        k: at most this many documents.
        least: the least cosine of what comes back; `None` is no limit.
        options: further arguments of the store's search.
        judged: whether somebody else will score what is found.

    Raises:
        OptionError: a limit, and a store of which no cosine can be had.
    """

    store: VectorStore
    embeddings: GritEmbeddings | None
    k: int
    least: float | None
    options: Mapping[str, Any]
    judged: bool = False

    def __post_init__(self) -> None:
        if self.least is not None and self._cosine_of_score() is None and self.store.embeddings is None:
            raise OptionError(
                f"score_threshold={self.least} is not possible: a {type(self.store).__name__} without embeddings has "
                "no cosines to compare it with. Leave it out, or give the store its embeddings."
            )

    def run(self, query: str) -> list[Document]:
        """Return copies of what is found, in the store's order."""
        return self._settled(query, self._hits(query))

    async def arun(self, query: str) -> list[Document]:
        """Search by the store's own async methods; otherwise like `run`."""
        hits = await self._ahits(query)
        return await asyncio.to_thread(self._settled, query, hits)

    def _hits(self, query: str) -> Hits:
        try:
            return list(self.store.similarity_search_with_score(query, k=self.k, **self.options))
        except NotImplementedError:
            return [(found, None) for found in self.store.similarity_search(query, k=self.k, **self.options)]

    async def _ahits(self, query: str) -> Hits:
        try:
            return list(await self.store.asimilarity_search_with_score(query, k=self.k, **self.options))
        except NotImplementedError:
            return [(found, None) for found in await self.store.asimilarity_search(query, k=self.k, **self.options)]

    def _settled(self, query: str, hits: Hits) -> list[Document]:
        found = [document for document, _ in hits]
        cosines = self._cosines(query, hits)
        if cosines is None:
            return [scored(document) for document in found]
        pairs = zip(found, cosines, strict=True)
        return [scored(document, cosine) for document, cosine in pairs if self.least is None or cosine >= self.least]

    def _cosines(self, query: str, hits: Hits) -> Sequence[float] | None:
        """Return a cosine for each hit; `None` if there are none to be had, or only by somebody else's work."""
        cosine = self._cosine_of_score()
        if cosine is not None:
            return [cosine(said) for _, said in hits if said is not None]
        if self.least is None and (self.judged or self.embeddings is None):
            return None
        try:
            return _embedded(self.store, query, [document.page_content for document, _ in hits])
        except GritError as error:
            if self.least is not None:
                raise
            logger.info("The retrieved documents have no scores: %s", error)
            return None

    def _cosine_of_score(self) -> Callable[[float], float] | None:
        unit = self.embeddings is not None and self.embeddings.grit.settings.normalize
        return cosine_of_score(self.store, unit=unit)


def _embedded(store: VectorStore, query: str, texts: list[str]) -> list[float]:
    """Return the cosines of texts by the store's own embeddings, computed anew."""
    embeddings = store.embeddings
    assert embeddings is not None
    if not texts:
        return []
    asked, found = np.array(embeddings.embed_query(query)), np.array(embeddings.embed_documents(texts))
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(asked)
    return [float(cosine) for cosine in found @ asked / lengths]
