"""Chroma: more records than it takes at once, programs that meet, and wrong arguments."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chroma_records import IDS, TEXTS
from chromadb.api import ClientAPI
from chromadb.errors import ChromaError
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import TextNode
from llama_index.vector_stores.chroma import ChromaVectorStore

from grit_integrations import CollectionMismatchError, GritLM, OptionError, PromptError
from grit_integrations.chroma import (
    GritEmbeddingFunction,
    check_collection,
    open_collection,
    persistent_client,
    stamp,
)
from grit_integrations.llama_index import GritEmbedding

# Many records, many programs


def test_more_records_than_chroma_takes_at_once(
    tiny: GritLM, client: ClientAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = open_collection(client, "docs", tiny)
    most = client.get_max_batch_size()
    ids, texts = [str(n) for n in range(most + 2)], [f"text {n}" for n in range(most + 2)]
    embedded: list[int] = []
    embed = GritLM.embed_documents
    monkeypatch.setattr(GritLM, "embed_documents", lambda *a, **b: (embedded.append(len(a[1])), embed(*a, **b))[1])
    docs.add(ids=map(str, ids), documents=(text for text in texts), metadatas=[{"n": n} for n in range(most + 2)])
    assert (docs.count(), embedded) == (most + 2, [most, 2])
    last = docs.get(ids=[ids[-1]])
    assert (last["documents"], last["metadatas"]) == ([texts[-1]], [{"n": most + 1}])
    docs.upsert(ids, np.ones((most + 2, len(tiny.embed_queries(["text"])[0])), dtype=np.float32), documents=texts)
    docs.update(ids=ids, metadatas=[{"n": 0}] * (most + 2))
    assert docs.get(ids=[ids[-1]])["metadatas"] == [{"n": 0}]


def test_each_part_is_kept(tiny: GritLM, client: ClientAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = open_collection(client, "docs", tiny)
    most = client.get_max_batch_size()
    embed, calls = GritLM.embed_documents, iter(range(9))

    def interrupted(*args: Any, **options: Any) -> Any:
        if next(calls):
            raise KeyboardInterrupt
        return embed(*args, **options)

    monkeypatch.setattr(GritLM, "embed_documents", interrupted)
    with pytest.raises(KeyboardInterrupt):
        docs.add(ids=[str(n) for n in range(most + 1)], documents=["text"] * (most + 1))
    assert docs.count() == most


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda ids, texts: (["0"] * len(ids), texts), "unique"),
        (lambda ids, texts: (ids, texts[:-1]), "Unequal lengths"),
        (lambda ids, texts: (ids, [*texts[:-1], " "]), "Document 5462 is empty"),
        (lambda ids, texts: (ids, [*texts[:-1], "\ud800"]), "Document 5462 has a lone surrogate"),
        (lambda ids, texts: (ids, [*texts[:-1], 3]), "Document 5462 is a int"),
    ],
)
def test_many_records_of_which_one_is_wrong(tiny: GritLM, client: ClientAPI, change: Any, complaint: str) -> None:
    docs = open_collection(client, "docs", tiny)
    ids, texts = change([str(n) for n in range(5463)], ["text"] * 5463)
    with pytest.raises((ChromaError, ValueError), match=complaint):
        docs.add(ids=ids, documents=texts)
    assert docs.count() == 0


def test_a_pipeline_of_many_nodes(tiny: GritLM, client: ClientAPI) -> None:
    docs = open_collection(client, "docs", tiny)
    nodes = [TextNode(text=f"text {n}") for n in range(client.get_max_batch_size() + 1)]
    store = ChromaVectorStore(chroma_collection=docs)
    IngestionPipeline(transformations=[GritEmbedding(tiny)], vector_store=store).run(nodes=nodes)
    assert docs.count() == len(nodes)


def test_many_open_what_is_not_there(tiny: GritLM, client: ClientAPI) -> None:
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: open_collection(client, "docs", tiny), range(8)))
    assert len({docs.id for docs in opened}) == 1
    opened[0].add(ids=IDS, documents=TEXTS)
    assert [docs.count() for docs in opened] == [3] * 8


def test_impossible_names_are_not_taken_for_somebody_elses(tiny: GritLM, client: ClientAPI) -> None:
    with pytest.raises(ChromaError, match="name"):
        open_collection(client, "x", tiny)


@pytest.mark.parametrize(
    "how",
    [
        lambda function: {"embedding_function": function},
        lambda function: {"configuration": {"embedding_function": function}},
        lambda function: {"embedding_function": function, "configuration": {"hnsw": {"space": "ip"}}},
        lambda function: {"embedding_function": function, "metadata": {"hnsw:space": "l2"}},
        lambda function: {"embedding_function": function, "get_or_create": True},
    ],
    ids=["function", "configuration", "both", "metadata", "get or create"],
)
def test_every_way_to_create_a_collection_is_found_again(tiny: GritLM, client: ClientAPI, how: Any) -> None:
    function = GritEmbeddingFunction(tiny, query_instruction="Find the passage")
    client.create_collection("docs", **how(function)).add(ids=IDS, documents=TEXTS)
    again = client.get_collection("docs")  # as a program does that knows nothing about its model
    assert again.configuration["embedding_function"].get_config() == function.get_config()
    wanted = int(
        np.argmax(tiny.embed_documents(TEXTS) @ tiny.embed_queries(["blood"], instruction="Find the passage")[0])
    )
    assert again.query(query_texts=["blood"], n_results=1)["ids"] == [[IDS[wanted]]]
    check_collection(again, tiny)
    with pytest.raises(CollectionMismatchError, match="truncate_dim"):
        open_collection(client, "docs", tiny.with_options(truncate_dim=8))


# Wrong arguments


@pytest.mark.parametrize("model", [3, None, [], object(), ""], ids=lambda model: str(model)[:7])
def test_what_names_no_model(model: Any, tiny: GritLM, client: ClientAPI) -> None:
    docs = open_collection(client, "docs", tiny)
    doors: list[Any] = [GritEmbeddingFunction, stamp]
    doors += [lambda model: open_collection(client, "other", model), lambda model: check_collection(docs, model)]
    for door in doors:
        with pytest.raises(OptionError, match="names no model"):
            door(model)
    assert [found.name for found in client.list_collections()] == ["docs"]


def test_names_stand_for_models_everywhere(tiny: GritLM, tiny_path: Path, client: ClientAPI) -> None:
    assert stamp(tiny_path) == stamp(str(tiny_path)) == stamp(tiny)
    check_collection(open_collection(client, "docs", tiny), tiny_path)


@pytest.mark.parametrize("name", ["query_instruction", "document_instruction"])
@pytest.mark.parametrize("value", [3, float("nan"), "a\ud800", "a\x00"], ids=ascii)
def test_wrong_instructions(tiny: GritLM, client: ClientAPI, name: str, value: Any) -> None:
    for door in (
        lambda **wrong: GritEmbeddingFunction(tiny, **wrong),
        lambda **w: open_collection(client, "docs", tiny, **w),
    ):
        with pytest.raises(PromptError, match=f"The {name.partition('_')[0]}'s instruction"):
            door(**{name: value})
    assert client.list_collections() == []


@pytest.mark.parametrize("path", [3, None, True])
def test_wrong_paths_make_no_folder(path: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match="path="):
        persistent_client(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("texts", [None, 3, b"text", {"a": "text"}, "text", [None], [b"text"]], ids=str)
def test_what_is_no_list_of_texts(tiny: GritLM, texts: Any) -> None:
    function = GritEmbeddingFunction(tiny)
    for embed in (function, function.embed_query):
        with pytest.raises(PromptError):
            embed(texts)
    assert len(function(iter(TEXTS))) == len(function.embed_query(map(str, TEXTS))) == 3  # type: ignore[arg-type]


def test_vectors_that_are_not_finite_or_of_another_size(tiny: GritLM, client: ClientAPI) -> None:
    docs = open_collection(client, "docs", tiny)
    docs.add(ids=IDS, documents=TEXTS)
    vectors = tiny.embed_documents(TEXTS)
    for wrong, complaint in ((vectors * np.nan, "NaN"), (vectors * np.inf, "NaN|Inf"), (vectors[:, :8], "dimension")):
        with pytest.raises(ChromaError, match=complaint):
            docs.upsert(ids=IDS, embeddings=wrong)
    assert np.allclose(docs.get(ids=IDS, include=["embeddings"])["embeddings"], vectors, atol=1e-6)
