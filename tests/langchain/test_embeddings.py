"""GritEmbeddings: two sides, text untouched, caches that never mix models, and inside LangChain's own stores."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_core.stores import InMemoryByteStore
from langchain_core.vectorstores import InMemoryVectorStore

from grit_integrations import ContextOverflowError, EmptyTextError, GritLM, PromptError
from grit_integrations.langchain import GritEmbeddings

INSTRUCTION = "Given a question, retrieve passages that answer it"
TEXTS = ["The heart pumps blood.", "Stars shine by fusion.", "Two\nlines\n\nand more."]


def test_queries_and_documents_are_two_sides_of_the_core(tiny: GritLM) -> None:
    embeddings = GritEmbeddings(model=tiny, query_instruction=INSTRUCTION)
    query = embeddings.embed_query(TEXTS[0])
    assert np.allclose(query, tiny.embed_queries(TEXTS[:1], instruction=INSTRUCTION)[0], atol=1e-6)
    documents = embeddings.embed_documents(TEXTS)
    assert np.allclose(documents, tiny.embed_documents(TEXTS), atol=1e-6)
    assert not np.allclose(query, documents[0], atol=1e-2)
    assert all(isinstance(value, float) for value in query)
    symmetric = GritEmbeddings(model=tiny, query_instruction=INSTRUCTION, document_instruction=INSTRUCTION)
    assert np.allclose(symmetric.embed_documents(TEXTS[:1])[0], query, atol=1e-6)


def test_newlines_are_part_of_the_text(tiny: GritLM) -> None:
    embeddings = GritEmbeddings(model=tiny)
    kept, replaced = embeddings.embed_documents([TEXTS[2], TEXTS[2].replace("\n", " ")])
    assert not np.allclose(kept, replaced, atol=1e-3)


def test_no_texts_give_no_vectors(tiny: GritLM) -> None:
    assert GritEmbeddings(model=tiny).embed_documents([]) == []
    assert asyncio.run(GritEmbeddings(model=tiny).aembed_documents([])) == []


def test_bad_texts_are_named(tiny: GritLM) -> None:
    embeddings = GritEmbeddings(model=tiny)
    with pytest.raises(EmptyTextError, match="Document 1"):
        embeddings.embed_documents(["fine", "  "])
    with pytest.raises(PromptError, match="not a string"):
        embeddings.embed_documents(["fine", 3])  # type: ignore[list-item]


def test_long_texts_are_refused_or_cut_as_asked(tiny: GritLM) -> None:
    text = "word " * 5000
    with pytest.raises(ContextOverflowError, match="4,0"):
        GritEmbeddings(model=tiny).embed_query(text)
    cut = GritEmbeddings(model=tiny, truncate=True)
    assert cut.embed_query(text) == pytest.approx(cut.embed_query(text + "and more"), abs=1e-5)


def test_options_for_vectors_reach_a_named_model(tiny: GritLM) -> None:
    short = GritEmbeddings(model=tiny.source, truncate_dim=8, pooling="lasttoken", normalize=False)
    assert (short.grit.pooling, short.grit.settings.normalize, short.grit.dim) == ("lasttoken", False, 8)
    assert len(short.embed_query("Hello")) == 8


async def test_async_equals_sync_and_concurrent_calls_agree(tiny: GritLM) -> None:
    embeddings = GritEmbeddings(model=tiny, query_instruction=INSTRUCTION)
    expected = embeddings.embed_documents(TEXTS)
    results = await asyncio.gather(*(embeddings.aembed_documents(TEXTS) for _ in range(8)))
    assert all(np.allclose(result, expected, atol=1e-5) for result in results)
    assert np.allclose(await embeddings.aembed_query("Hello"), embeddings.embed_query("Hello"), atol=1e-5)


def test_namespace_changes_with_everything_that_changes_a_vector(tiny: GritLM, other: GritLM) -> None:
    def namespace(options: dict[str, Any], **fields: Any) -> str:
        grit = GritLM(tiny.source, **options)
        return GritEmbeddings(model=grit, **fields).namespace

    plain = namespace({})
    different = [
        GritEmbeddings(model=other).namespace,
        *(namespace(options) for options in ({"dtype": "bfloat16"}, {"truncate_dim": 8}, {"normalize": False})),
        namespace({"pooling": "cls"}),
        namespace({}, query_instruction=INSTRUCTION),
        namespace({}, document_instruction=INSTRUCTION),
    ]
    assert len({plain, *different}) == 1 + len(different)
    assert namespace({"device": "cpu"}) == GritEmbeddings(model=tiny).namespace == plain


def test_cached_embeddings_are_reused_and_never_mixed(tiny: GritLM, other: GritLM, monkeypatch: Any) -> None:
    documents, queries = InMemoryByteStore(), InMemoryByteStore()

    def cached(grit: GritLM) -> CacheBackedEmbeddings:
        embeddings = GritEmbeddings(model=grit, query_instruction=INSTRUCTION)
        return CacheBackedEmbeddings.from_bytes_store(
            embeddings,
            documents,
            namespace=embeddings.namespace,
            query_embedding_cache=queries,
            key_encoder="blake2b",
        )

    first, second = cached(tiny).embed_documents(TEXTS), cached(other).embed_documents(TEXTS)
    query = cached(tiny).embed_query(TEXTS[0])
    assert not np.allclose(first, second, atol=1e-2)
    assert not np.allclose(first[0], query, atol=1e-2)
    monkeypatch.setattr(GritLM, "_embed", None)  # nothing is computed again
    assert cached(tiny).embed_documents(TEXTS) == first
    assert cached(tiny).embed_query(TEXTS[0]) == query


async def test_it_serves_langchains_vector_store(tiny: GritLM) -> None:
    store = InMemoryVectorStore(GritEmbeddings(model=tiny))
    await store.aadd_texts(TEXTS, metadatas=[{"n": n} for n in range(3)])
    found = store.similarity_search_with_score(TEXTS[1], k=1)
    assert (found[0][0].page_content, found[0][0].metadata["n"]) == (TEXTS[1], 1)
    assert found[0][1] == pytest.approx(1, abs=1e-4)
    assert (await store.as_retriever(search_kwargs={"k": 2}).ainvoke(TEXTS[0]))[0].page_content == TEXTS[0]
