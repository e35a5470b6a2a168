"""The model that a retriever works with is the one inside its store, however wrapped, or one that was named."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_classic.retrievers import ContextualCompressionRetriever, EnsembleRetriever
from langchain_classic.retrievers.multi_query import MultiQueryRetriever
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.retrievers import BaseRetriever
from langchain_core.stores import InMemoryByteStore
from langchain_core.vectorstores import InMemoryVectorStore

from grit_integrations import GritLM, OptionError
from grit_integrations.langchain import GritEmbeddings, GritReranker, GritRetriever


class Logged(Embeddings):
    """A wrapper as an application writes it."""

    def __init__(self, inner: Any) -> None:
        self._somewhere = inner

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._somewhere.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        return self._somewhere.embed_query(text)


class Keywords(BaseRetriever):
    """Looks for words, without any model."""

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return [Document(query)]


def cached(inner: Embeddings) -> Embeddings:
    return CacheBackedEmbeddings.from_bytes_store(inner, InMemoryByteStore(), namespace="n", key_encoder="sha256")


WRAPPED: dict[str, Any] = {
    "plain": lambda inner: inner,
    "CacheBackedEmbeddings": cached,
    "a class of one's own": Logged,
    "twice": lambda inner: Logged(cached(inner)),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_the_model_is_found_in_wrapped_embeddings(fresh: GritLM, name: str) -> None:
    store = InMemoryVectorStore(WRAPPED[name](GritEmbeddings(model=fresh)))
    retriever = GritRetriever(vectorstore=store, reranker=GritReranker())
    assert retriever.grit is retriever.reranker.grit is fresh


def test_the_model_is_found_in_wrapped_retrievers(fresh: GritLM) -> None:
    plain = InMemoryVectorStore(cached(GritEmbeddings(model=fresh))).as_retriever()
    words, llm = Keywords(), FakeListChatModel(responses=["?"])
    for wrapped in (
        plain,
        EnsembleRetriever(retrievers=[words, plain]),
        MultiQueryRetriever.from_llm(retriever=plain, llm=llm),
        ContextualCompressionRetriever(base_compressor=GritReranker(), base_retriever=plain),
        ContextualCompressionRetriever(base_compressor=GritReranker(model=fresh), base_retriever=words),
        GritRetriever(retriever=plain),
    ):
        assert GritRetriever(retriever=wrapped).grit is fresh
    assert GritRetriever(retriever=words, reranker=GritReranker(model=fresh)).grit is fresh


def test_where_no_model_can_be_found_one_is_asked_for(fresh: GritLM, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = InMemoryVectorStore(Logged(DeterministicFakeEmbedding(size=4)))
    nothing: list[tuple[str, dict[str, Any]]] = [
        ("InMemoryVectorStore", {"vectorstore": foreign}),
        ("Keywords", {"retriever": Keywords()}),
        ("Keywords", {"retriever": Keywords(), "reranker": GritReranker()}),
    ]
    for kind, options in nothing:
        with pytest.raises(OptionError, match=f"No GritLM was found in the {kind}.*model="):
            GritRetriever(**options)
        assert GritRetriever(model=fresh, **options).grit is fresh
        monkeypatch.setenv("GRIT_MODEL", fresh.source)
        assert GritRetriever(**options).grit.source == fresh.source
        monkeypatch.delenv("GRIT_MODEL")


def test_several_models_are_a_question_to_the_caller(fresh: GritLM, other: GritLM) -> None:
    stores = [InMemoryVectorStore(GritEmbeddings(model=grit)).as_retriever() for grit in (fresh, other)]
    both = EnsembleRetriever(retrievers=stores)
    with pytest.raises(OptionError, match="The EnsembleRetriever holds several models"):
        GritRetriever(retriever=both)
    assert GritRetriever(retriever=both, model=other).grit is other
