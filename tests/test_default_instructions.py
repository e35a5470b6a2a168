"""Instructions that a checkpoint names: every way of embedding uses them where it is given none. Random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from checkpoints import write_variant
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from grit_integrations import CollectionMismatchError, Decoding, GritLM, KVCacheStore
from grit_integrations.chroma import GritEmbeddingFunction, VectorOrigin
from grit_integrations.ingest import PassageIndex
from grit_integrations.langchain import GritEmbeddings, GritRetriever
from grit_integrations.llama_index import GritEmbedding
from grit_integrations.quoting.nearest import best_quotes

QUERY, DOCUMENT = "Find what answers it", "A passage"
TEXT = "The heart pumps blood through the body."
Vector = npt.ArrayLike


@pytest.fixture(scope="module")
def path(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("instructed") / "GritLM-instructed"
    return write_variant(folder, tiny_path, query_instruction=QUERY, document_instruction=DOCUMENT)


@pytest.fixture(scope="module")
def grit(path: Path) -> GritLM:
    return GritLM(path).load()


def same(one: Vector, two: Vector) -> bool:
    return bool(np.allclose(np.asarray(one).ravel(), np.asarray(two).ravel(), atol=1e-5))


WAYS: dict[str, Callable[[GritLM, dict[str, str]], tuple[Vector, Vector]]] = {
    "LangChain": lambda grit, given: (
        GritEmbeddings(model=grit, **given).embed_query(TEXT),
        GritEmbeddings(model=grit, **given).embed_documents([TEXT]),
    ),
    "Chroma": lambda grit, given: (
        GritEmbeddingFunction(grit, **given).embed_query([TEXT]),
        GritEmbeddingFunction(grit, **given)([TEXT]),
    ),
    "LlamaIndex": lambda grit, given: (
        GritEmbedding(grit, **_llama_index(given)).get_query_embedding(TEXT),
        GritEmbedding(grit, **_llama_index(given)).get_text_embedding(TEXT),
    ),
}


def _llama_index(given: dict[str, str]) -> dict[str, str]:
    return {name.replace("document", "text"): value for name, value in given.items()}


def test_the_model_s_own_instructions_are_used_where_none_is_given(grit: GritLM, tiny: GritLM) -> None:
    assert same(grit.embed_queries([TEXT]), tiny.embed_queries([TEXT], instruction=QUERY))
    assert same(grit.embed_documents([TEXT]), tiny.embed_documents([TEXT], instruction=DOCUMENT))
    assert same(grit.embed_queries([TEXT], instruction=""), tiny.embed_queries([TEXT]))
    assert same(grit.embed_documents([TEXT], instruction="Other"), tiny.embed_documents([TEXT], instruction="Other"))
    assert not same(grit.embed_queries([TEXT]), grit.embed_documents([TEXT]))


async def test_async_embedding_uses_them_too(grit: GritLM, tiny: GritLM) -> None:
    assert same(await grit.aembed_queries([TEXT]), tiny.embed_queries([TEXT], instruction=QUERY))
    assert same(await grit.aembed_documents([TEXT]), tiny.embed_documents([TEXT], instruction=DOCUMENT))


@pytest.mark.parametrize("framework", WAYS)
def test_adapters_use_them_unless_they_have_their_own(framework: str, grit: GritLM, tiny: GritLM) -> None:
    query, document = WAYS[framework](grit, {})
    assert same(query, tiny.embed_queries([TEXT], instruction=QUERY))
    assert same(document, tiny.embed_documents([TEXT], instruction=DOCUMENT))
    query, document = WAYS[framework](grit, {"query_instruction": "", "document_instruction": ""})
    assert same(query, tiny.embed_queries([TEXT]))
    assert same(document, tiny.embed_documents([TEXT]))


def test_a_document_s_block_is_that_of_its_embedding_pass(grit: GritLM) -> None:
    kept = grit.with_options(caching="doc", kv_store=KVCacheStore(None, ram_bytes="50MB"))
    kept.embed_documents([TEXT], instruction="")
    assert kept.stored([TEXT]) == [False]  # prompts have it under the model's own instruction
    kept.embed_documents([TEXT])
    assert kept.stored([TEXT]) == [True]
    fresh = grit.with_options(caching="doc", kv_store=KVCacheStore(None, ram_bytes="50MB"))
    decoding = Decoding(max_new_tokens=4, logprobs=2)
    hit, miss = (each.generate("What pumps it?", [TEXT], decoding=decoding) for each in (kept, fresh))
    assert hit.usage.cache_read_tokens > miss.usage.cache_read_tokens
    assert (hit.token_ids, hit.logprobs) == (miss.token_ids, miss.logprobs)


def test_a_query_s_block_is_read_under_its_instruction(grit: GritLM) -> None:
    own = grit.prompt("Why?", [TEXT], caching="query")
    named, none = (grit.prompt("Why?", [TEXT], caching="query", query_instruction=given) for given in (QUERY, ""))
    assert own.plan == named.plan != none.plan


def test_embedding_a_retriever_s_documents_keeps_their_blocks(grit: GritLM) -> None:
    kept = grit.with_options(caching="doc", kv_store=KVCacheStore(None, ram_bytes="50MB"))
    GritRetriever.from_documents([Document(TEXT)], vectorstore=InMemoryVectorStore(GritEmbeddings(model=kept)))
    assert kept.stored([TEXT]) == [True]


def test_reranking_and_quoting_compare_under_them(grit: GritLM, tiny: GritLM) -> None:
    passages = [TEXT, "Stars shine by fusion."]
    (own, other) = grit.rerank("What pumps?", passages, method="embedding")
    query = tiny.embed_queries(["What pumps?"], instruction=QUERY)[0]
    cosines = tiny.embed_documents(passages, instruction=DOCUMENT) @ query
    assert same([own.score, other.score], sorted(cosines, reverse=True))
    (quote, *_) = best_quotes(grit, "What pumps?", passages, length=1, lexical_weight=0)
    assert quote.score == pytest.approx(max(cosines), abs=1e-5)


def test_an_origin_names_the_instruction_that_was_used(grit: GritLM) -> None:
    wanted = VectorOrigin.of(grit)
    assert wanted.document_instruction == DOCUMENT
    with pytest.raises(CollectionMismatchError, match="document_instruction='A passage'"):
        wanted.check(VectorOrigin.of(grit, document_instruction=""), "It")
    config = GritEmbeddingFunction(grit).get_config()
    assert same(GritEmbeddingFunction.build_from_config(config).embed_query([TEXT]), grit.embed_queries([TEXT]))


def test_names_of_cached_vectors_follow_what_is_computed(grit: GritLM, tiny: GritLM) -> None:
    named = GritEmbeddings(model=grit, query_instruction=QUERY, document_instruction=DOCUMENT).namespace
    assert GritEmbeddings(model=grit).namespace == named != GritEmbeddings(model=grit, query_instruction="").namespace
    assert GritEmbeddings(model=tiny).namespace == GritEmbeddings(model=tiny, query_instruction="").namespace


def test_they_are_part_of_the_fingerprint(grit: GritLM, tiny: GritLM) -> None:
    assert grit.fingerprint != tiny.fingerprint


def test_an_index_searches_under_the_model_s_own_words(grit: GritLM, tiny: GritLM, tmp_path: Path) -> None:
    (tmp_path / "heart.txt").write_text(TEXT)
    for model, asked in ((grit, QUERY), (tiny, "Given a question, retrieve passages that answer the question")):
        index = PassageIndex(tmp_path / model.fingerprint, model, create=True)
        index.index([tmp_path / "heart.txt"])
        query = model.embed_queries(["What pumps?"], instruction=asked)[0]
        assert index.search("What pumps?")[0].score == pytest.approx(model.embed_documents([TEXT])[0] @ query, abs=1e-5)
