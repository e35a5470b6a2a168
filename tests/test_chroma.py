"""Chroma: two sides, a configuration that survives restarts, and no other model's vectors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import chromadb
import numpy as np
import pytest
from checkpoints import write_checkpoint
from chroma_records import IDS, TEXTS
from chromadb.api import ClientAPI
from chromadb.config import Settings
from langchain_chroma import Chroma
from langchain_core.documents import Document
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.vector_stores.chroma import ChromaVectorStore

from grit_integrations import CollectionMismatchError, GritLM, ModelLoadError, OptionError
from grit_integrations.chroma import (
    GritEmbeddingFunction,
    check_collection,
    open_collection,
    persistent_client,
    stamp,
)
from grit_integrations.langchain import GritEmbeddings
from grit_integrations.llama_index import GritEmbedding


@pytest.fixture(scope="module")
def other_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("other") / "GritLM-other", seed=1)


def reopened(client: ClientAPI, name: str) -> chromadb.Collection:
    """Open a collection as a program does that knows nothing about its model."""
    return client.get_collection(name)


def test_query_and_document_sides_differ(tiny: GritLM, client: ClientAPI) -> None:
    function = GritEmbeddingFunction(tiny, query_instruction="Find the passage", document_instruction="A passage")
    assert np.allclose(function(TEXTS), tiny.embed_documents(TEXTS, instruction="A passage"), atol=1e-6)
    assert np.allclose(
        function.embed_query(TEXTS), tiny.embed_queries(TEXTS, instruction="Find the passage"), atol=1e-6
    )
    docs = client.create_collection("docs", embedding_function=function)
    docs.add(ids=IDS, documents=TEXTS)
    found = docs.query(query_texts=[TEXTS[0]], n_results=3, include=["distances"])
    query = tiny.embed_queries([TEXTS[0]], instruction="Find the passage")[0]
    wanted = sorted(1 - tiny.embed_documents(TEXTS, instruction="A passage") @ query)
    assert np.allclose(found["distances"][0], wanted, atol=1e-5)  # cosine is the default, of the query side


def test_config_round_trip_opens_no_file(tmp_path: Path, tiny_path: Path) -> None:
    here = shutil.copytree(tiny_path, tmp_path / "model")
    model = GritLM(here, pooling="lasttoken", truncate_dim=16, dtype="float32")
    config = GritEmbeddingFunction(model, query_instruction="Find").get_config()
    assert json.loads(json.dumps(config)) == config
    shutil.rmtree(here)
    again = GritEmbeddingFunction.build_from_config(config)
    assert again.get_config() == config | {"pooling": "lasttoken"}
    assert not again.model.is_loaded
    with pytest.raises(ModelLoadError, match="no directory"):
        again(["text"])


def test_config_is_checked(tiny: GritLM) -> None:
    config = GritEmbeddingFunction(tiny).get_config()
    with pytest.raises(OptionError, match="missing \\['fingerprint'\\], unknown \\['colour'\\]"):
        GritEmbeddingFunction.validate_config({k: v for k, v in config.items() if k != "fingerprint"} | {"colour": 1})
    with pytest.raises(OptionError, match="truncate_dim='16'"):
        GritEmbeddingFunction.build_from_config(config | {"truncate_dim": "16"})


def test_unusable_model_fails_before_chroma_can_hide_it(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError):
        GritEmbeddingFunction(tmp_path / "nothing")


def test_space_follows_the_vectors(tiny_path: Path, client: ClientAPI) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        docs = client.create_collection("docs", embedding_function=GritEmbeddingFunction(tiny_path))
    assert docs.configuration_json["hnsw"]["space"] == "cosine"
    assert GritEmbeddingFunction(GritLM(tiny_path, normalize=False)).supported_spaces() == ["cosine"]


RESTART = """
import sys
import numpy as np
from grit_integrations import GritLM
from grit_integrations.chroma import check_collection, persistent_client
import grit_integrations.chroma  # registers the function
client = persistent_client(sys.argv[1])
docs = client.get_collection("docs")
print(docs.query(query_texts=["The heart pumps blood."], n_results=1)["ids"][0][0])
docs.add(ids=["new"], documents=["A new text."])
model = GritLM(sys.argv[2])
check_collection(client.get_collection("docs"), model)
got = docs.get(ids=["new"], include=["embeddings"])["embeddings"][0]
print(bool(np.allclose(got, model.embed_documents(["A new text."])[0], atol=1e-6)))
"""


def test_restart_needs_no_embedding_function(tiny_path: Path, tmp_path: Path) -> None:
    store = tmp_path / "chroma"
    docs = open_collection(persistent_client(store), "docs", tiny_path)
    docs.add(ids=IDS, documents=TEXTS)
    run = subprocess.run(
        [sys.executable, "-c", RESTART, str(store), str(tiny_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["heart", "True"]
    assert docs.count() == 4


def test_files_changed_since(tiny_path: Path, other_path: Path, tmp_path: Path, client: ClientAPI) -> None:
    place = shutil.copytree(tiny_path, tmp_path / "model")
    before = GritLM(place).fingerprint
    open_collection(client, "docs", place).add(ids=IDS, documents=TEXTS)
    shutil.rmtree(place)
    shutil.copytree(other_path, place)
    after = GritLM(place).fingerprint
    docs = reopened(client, "docs")
    for work in (lambda: docs.query(query_texts=["heart"]), lambda: docs.add(ids=["x"], documents=["more"])):
        with pytest.raises(CollectionMismatchError) as refusal:
            work()
        assert before in str(refusal.value)
        assert after in str(refusal.value)
    assert docs.count() == 3


def test_weights_are_loaded_once_for_many_queries(tiny_path: Path, client: ClientAPI) -> None:
    open_collection(client, "docs", tiny_path).add(ids=IDS, documents=TEXTS)
    docs = reopened(client, "docs")
    first = docs.configuration["embedding_function"]
    docs.query(query_texts=["heart"])
    assert docs.configuration["embedding_function"].model is first.model
    assert first.model.is_loaded


def test_opened_with_another_model(tiny: GritLM, other_path: Path, client: ClientAPI) -> None:
    open_collection(client, "docs", tiny).add(ids=IDS, documents=TEXTS)
    with pytest.raises(CollectionMismatchError) as refusal:
        open_collection(client, "docs", other_path)
    assert tiny.fingerprint in str(refusal.value)
    assert GritLM(other_path).fingerprint in str(refusal.value)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"pooling": "cls"}, "pooling"), ({"normalize": False}, "normalize"), ({"truncate_dim": 8}, "truncate_dim")],
)
def test_same_model_other_vectors(
    tiny: GritLM, tiny_path: Path, client: ClientAPI, options: dict[str, object], named: str
) -> None:
    open_collection(client, "docs", tiny)
    with pytest.raises(CollectionMismatchError, match=f"{named}="):
        open_collection(client, "docs", GritLM(tiny_path, **options))


def test_query_instruction_may_change_document_instruction_not(tiny: GritLM, client: ClientAPI) -> None:
    open_collection(client, "docs", tiny, query_instruction="one").add(ids=IDS, documents=TEXTS)
    open_collection(client, "docs", tiny, query_instruction="two")
    with pytest.raises(CollectionMismatchError, match="document_instruction"):
        open_collection(client, "docs", tiny, document_instruction="A passage")


def test_configuration_update(tiny: GritLM, other_path: Path, client: ClientAPI) -> None:
    docs = open_collection(client, "docs", tiny)
    docs.modify(configuration={"embedding_function": GritEmbeddingFunction(tiny, query_instruction="two")})
    assert reopened(client, "docs").configuration["embedding_function"].query_instruction == "two"
    with pytest.raises(CollectionMismatchError, match="undo this one"):
        docs.modify(configuration={"embedding_function": GritEmbeddingFunction(other_path)})
    check_collection(reopened(client, "docs"), tiny)  # Chroma stored the change, but the stamp knows better
    with pytest.raises(CollectionMismatchError):
        open_collection(client, "docs", other_path)


def test_unknown_origin(tiny: GritLM, other_path: Path, client: ClientAPI) -> None:
    plain = client.create_collection("plain", embedding_function=None, metadata={"topic": "hearts"})
    check_collection(plain, tiny)  # empty: nothing to mix up
    plain.add(ids=IDS, embeddings=tiny.embed_documents(TEXTS).tolist(), documents=TEXTS)
    with pytest.raises(CollectionMismatchError, match="holds 3 vectors and does not say"):
        check_collection(plain, tiny)
    plain.modify(metadata={**plain.metadata, **stamp(tiny)})
    check_collection(reopened(client, "plain"), tiny)
    assert reopened(client, "plain").metadata["topic"] == "hearts"
    with pytest.raises(CollectionMismatchError, match=tiny.fingerprint):
        check_collection(plain, GritLM(other_path))


def test_empty_collection_of_nobody_becomes_ours(tiny: GritLM, other_path: Path, client: ClientAPI) -> None:
    client.create_collection("plain", embedding_function=None, metadata={"topic": "hearts"})
    docs = open_collection(client, "plain", tiny)
    docs.add(ids=IDS, documents=TEXTS)
    assert docs.query(query_texts=[TEXTS[1]], n_results=1)["ids"] == [["stars"]]
    with pytest.raises(CollectionMismatchError):
        open_collection(client, "plain", other_path)


def test_both_frameworks_and_chroma_on_one_directory(tiny: GritLM, other_path: Path, tmp_path: Path) -> None:
    store = tmp_path / "chroma"
    client = persistent_client(store)
    plain = open_collection(client, "docs", tiny)
    plain.add(ids=["heart"], documents=TEXTS[:1])

    langchain = Chroma(collection_name="docs", embedding_function=GritEmbeddings(model=tiny), client=client)
    langchain.add_documents([Document(TEXTS[1], metadata={"source": "sky"})], ids=["stars"])

    vectors = ChromaVectorStore(chroma_collection=plain)
    index = VectorStoreIndex.from_vector_store(vectors, embed_model=GritEmbedding(tiny))
    index.insert_nodes([TextNode(id_="railway", text=TEXTS[2])])

    for text, name in zip(TEXTS, IDS, strict=True):
        assert plain.query(query_texts=[text], n_results=1)["ids"] == [[name]]
        document, distance = langchain.similarity_search_with_score(text, k=1)[0]
        assert (document.page_content, distance) == (text, pytest.approx(0, abs=1e-5))  # cosine distance
        node = index.as_retriever(similarity_top_k=1).retrieve(text)[0]
        assert (node.text, node.score) == (text, pytest.approx(1, abs=1e-5))
    check_collection(reopened(persistent_client(store), "docs"), tiny)


def test_collection_that_langchain_created(tiny: GritLM, other_path: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "chroma")
    made = Chroma(
        collection_name="docs",
        embedding_function=GritEmbeddings(model=tiny),
        persist_directory=store,
        client_settings=Settings(anonymized_telemetry=False, is_persistent=True, persist_directory=store),
        collection_metadata=stamp(tiny),
        collection_configuration={"hnsw": {"space": "cosine"}},
    )
    made.add_texts(TEXTS, ids=IDS)
    docs = open_collection(persistent_client(store), "docs", tiny)
    assert docs.query(query_texts=[TEXTS[1]], n_results=1)["ids"] == [["stars"]]
    with pytest.raises(CollectionMismatchError):
        open_collection(persistent_client(store), "docs", other_path)


def test_bad_texts(tiny: GritLM, client: ClientAPI) -> None:
    docs = open_collection(client, "docs", tiny)
    for bad in ("", " \n", "a\x00b", "a\ud800b", "long " * 5000):
        with pytest.raises(ValueError, match=r"Document 1|documents"):
            docs.add(ids=["a", "b"], documents=["fine", bad])
    assert docs.count() == 0
