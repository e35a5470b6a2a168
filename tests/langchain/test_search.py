"""Scores that mean the same in every store, and thresholds that hold in every store."""

from __future__ import annotations

import itertools
from typing import Any

import chromadb
import numpy as np
import pytest
from langchain_chroma import Chroma
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.stores import InMemoryByteStore
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langchain_helpers import documents

from grit_integrations import GritLM, OptionError
from grit_integrations.langchain import GritEmbeddings, GritReranker, GritRetriever

QUESTION = "What pumps blood?"
_numbers = itertools.count()


class Distances(InMemoryVectorStore):
    """Scores by Euclidean distances, as FAISS and others do."""

    def similarity_search_with_score(self, query: str, k: int = 4, **options: Any) -> list[tuple[Document, float]]:
        hits = super().similarity_search_with_score(query, k, **options)
        return [(document, (2 - 2 * score) ** 0.5) for document, score in hits]

    async def asimilarity_search_with_score(self, query: str, k: int = 4, **options: Any) -> Any:
        return self.similarity_search_with_score(query, k, **options)


class NoScores(VectorStore):
    """The least that a vector store can do."""

    def __init__(self, inner: InMemoryVectorStore) -> None:
        self.inner = inner

    @property
    def embeddings(self) -> Embeddings | None:
        return self.inner.embeddings

    @classmethod
    def from_texts(cls, *_: Any, **__: Any) -> NoScores:
        raise NotImplementedError

    def add_documents(self, documents: list[Document], **options: Any) -> list[str]:
        return self.inner.add_documents(documents, **options)

    def similarity_search(self, query: str, k: int = 4, **options: Any) -> list[Document]:
        return self.inner.similarity_search(query, k, **options)


class Blind(NoScores):
    """It does not even show its embeddings."""

    def __init__(self, inner: InMemoryVectorStore) -> None:
        self.find = inner.similarity_search

    embeddings = None

    def similarity_search(self, query: str, k: int = 4, **options: Any) -> list[Document]:
        return self.find(query, k, **options)


def chroma(space: str, embeddings: Embeddings) -> Chroma:
    return Chroma(
        f"search-{next(_numbers)}",
        embeddings,
        client=chromadb.EphemeralClient(),
        collection_configuration={"hnsw": {"space": space}},
    )


STORES: dict[str, Any] = {
    "in memory": InMemoryVectorStore,
    "Chroma, cosine": lambda embeddings: chroma("cosine", embeddings),
    "Chroma, l2": lambda embeddings: chroma("l2", embeddings),
    "Chroma, ip": lambda embeddings: chroma("ip", embeddings),
    "distances": Distances,
    "no scores": lambda embeddings: NoScores(InMemoryVectorStore(embeddings)),
}


def cosines(embeddings: Embeddings, texts: list[str]) -> list[float]:
    asked, found = np.array(embeddings.embed_query(QUESTION)), np.array(embeddings.embed_documents(texts))
    return list(found @ asked / np.linalg.norm(found, axis=1) / np.linalg.norm(asked))


def embeddings_of(grit: GritLM, kind: str) -> Embeddings:
    if kind == "unnormalised":
        return GritEmbeddings(model=grit.with_options(normalize=False))
    own = GritEmbeddings(model=grit, query_instruction="Find what answers it")
    if kind == "plain":
        return own
    return CacheBackedEmbeddings.from_bytes_store(own, InMemoryByteStore(), namespace="n", key_encoder="sha256")


@pytest.mark.parametrize("kind", ["plain", "wrapped", "unnormalised"])
@pytest.mark.parametrize("name", STORES)
async def test_the_score_is_the_cosine_in_every_store(fresh: GritLM, name: str, kind: str) -> None:
    embeddings = embeddings_of(fresh, kind)
    store = STORES[name](embeddings)
    store.add_documents(documents("cosines"), ids=["1", "2", "3"])
    retriever = GritRetriever(vectorstore=store)
    for found in (retriever.invoke(QUESTION), await retriever.ainvoke(QUESTION)):
        scores = [document.metadata["relevance_score"] for document in found]
        assert len(found) == 3
        assert scores == pytest.approx(cosines(embeddings, [each.page_content for each in found]), abs=1e-4)
        assert all(type(score) is float for score in scores)


@pytest.mark.parametrize("name", STORES)
async def test_a_threshold_holds_in_every_store(fresh: GritLM, name: str) -> None:
    embeddings = GritEmbeddings(model=fresh)
    store = STORES[name](embeddings)
    store.add_documents(documents("thresholds"), ids=["1", "2", "3"])
    low, middle, high = sorted(cosines(embeddings, [each.page_content for each in documents("thresholds")]))
    least = (low + middle) / 2
    retriever = GritRetriever(vectorstore=store, search_kwargs={"score_threshold": least})
    for found in (retriever.invoke(QUESTION), await retriever.ainvoke(QUESTION)):
        scores = sorted(document.metadata["relevance_score"] for document in found)
        assert scores == pytest.approx([middle, high], abs=1e-4)
    assert len(retriever.invoke(QUESTION, score_threshold=(middle + high) / 2)) == 1, "the call wins"
    assert len(retriever.invoke(QUESTION, score_threshold=None)) == 3
    assert retriever.invoke(QUESTION, score_threshold=1) == []


def test_a_threshold_holds_before_reranking(fresh: GritLM) -> None:
    retriever = GritRetriever.from_documents(documents("before"), model=fresh, reranker=GritReranker())
    assert len(retriever.invoke(QUESTION)) == 3
    assert retriever.invoke(QUESTION, score_threshold=1) == []


def test_scores_of_other_embeddings_are_told_only_where_they_are_cosines(fresh: GritLM) -> None:
    foreign = DeterministicFakeEmbedding(size=8)
    for name, known in (("in memory", True), ("Chroma, cosine", True), ("Chroma, l2", False), ("distances", False)):
        store = STORES[name](foreign)
        store.add_documents(documents("foreign"), ids=["1", "2", "3"])
        retriever = GritRetriever(vectorstore=store, model=fresh)
        found = retriever.invoke(QUESTION)
        assert [("relevance_score" in document.metadata) for document in found] == [known] * 3
        highest = max(cosines(foreign, [each.page_content for each in found]))
        assert len(retriever.invoke(QUESTION, score_threshold=highest - 1e-4)) == 1, "asked for, they are embedded"


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1.5, 2, 10**30, True, "0.3", [0.3]])
def test_an_impossible_threshold_is_refused_by_name(fresh: GritLM, wrong: Any) -> None:
    retriever = GritRetriever.from_documents([], model=fresh)
    with pytest.raises(OptionError, match=r"score_threshold=.*from -1 to 1"):
        GritRetriever(vectorstore=retriever.vectorstore, search_kwargs={"score_threshold": wrong})
    with pytest.raises(OptionError, match=r"score_threshold=.*from -1 to 1"):
        retriever.invoke(QUESTION, score_threshold=wrong)


def test_options_that_would_reach_nobody_are_refused(fresh: GritLM) -> None:
    plain = GritRetriever.from_documents(documents("nobody"), model=fresh)
    with pytest.raises(OptionError, match=r"'filtr' is unknown. Did you mean 'filter'"):
        plain.invoke(QUESTION, filtr=None)
    with pytest.raises(OptionError, match="prefer_cached is no option of a search"):
        plain.invoke(QUESTION, prefer_cached=1)
    wrapping = GritRetriever(retriever=plain.vectorstore.as_retriever())
    with pytest.raises(OptionError, match="score_threshold does not reach the search of the VectorStoreRetriever"):
        wrapping.invoke(QUESTION, score_threshold=0.5)
    assert GritRetriever(retriever=plain).invoke(QUESTION, score_threshold=1) == [], "our own hears of it"
    blind = GritRetriever(vectorstore=Blind(plain.vectorstore), model=fresh)
    assert len(blind.invoke(QUESTION)) == 3
    with pytest.raises(OptionError, match=r"score_threshold=0.5 is not possible: a Blind without embeddings"):
        blind.invoke(QUESTION, score_threshold=0.5)
