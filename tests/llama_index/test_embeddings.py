"""GritEmbedding against what the framework expects of an embedding model."""

from __future__ import annotations

import asyncio
import json
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_checkpoint
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
from llama_index.core.callbacks.schema import CBEventType
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from pacemaker import assert_loop_stays_free

from grit_integrations import EmptyTextError, GritError, GritLM, OptionError, PromptError
from grit_integrations.llama_index import GritEmbedding

INSTRUCTION = "Given a question, retrieve passages that answer it"
TEXTS = ["The heart pumps blood.", "Stars shine by fusion.", " ".join(["A verb has a subject."] * 30), "Iron rusts."]


@pytest.fixture
def embedding(tiny: GritLM) -> GritEmbedding:
    return GritEmbedding(tiny, query_instruction=INSTRUCTION)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> GritLM:
    """Another random model with vectors of the same length."""
    return GritLM(write_checkpoint(tmp_path_factory.mktemp("other") / "other", seed=1))


def close(found: Any, wanted: Any) -> bool:
    return np.allclose(found, wanted, atol=1e-5)


# What it is


def test_is_an_embedding_model() -> None:
    assert BaseEmbedding in GritEmbedding.__mro__
    assert GritEmbedding.class_name() == "GritEmbedding"
    own = set(vars(GritEmbedding))
    assert not own & {"get_query_embedding", "get_text_embedding", "get_text_embedding_batch"}


def test_to_dict_is_plain_complete_and_deterministic(tiny: GritLM, tiny_path: Path) -> None:
    data = GritEmbedding(tiny, query_instruction=INSTRUCTION).to_dict()
    assert json.loads(json.dumps(data)) == data == GritEmbedding(tiny, query_instruction=INSTRUCTION).to_dict()
    assert data["model_name"] == str(tiny_path)
    assert data["query_instruction"] == INSTRUCTION
    deciding = {"revision", "dtype", "pooling", "normalize", "truncate_dim", "truncate", "text_instruction"}
    assert deciding | {"embedding_head", "quantization_config", "fingerprint"} <= set(data)
    assert not {"device", "device_map", "attn_implementation", "embeddings_cache", "callback_manager"} & set(data)


def test_from_dict_round_trips(tiny: GritLM, tiny_path: Path) -> None:
    first = GritEmbedding(tiny_path, query_instruction=INSTRUCTION, truncate=True, truncate_dim=16, dtype="float32")
    again = GritEmbedding.from_dict(first.to_dict())
    assert again.to_dict() == first.to_dict()
    assert GritEmbedding.from_json(first.to_json()).to_dict() == first.to_dict()
    assert len(again.get_query_embedding("Paris")) == 16
    assert GritEmbedding.from_dict(GritEmbedding(tiny).to_dict(), model=tiny).grit is tiny


def test_naming_a_model_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIT_MODEL", "some/where")
    assert GritEmbedding().model_name == "some/where"
    assert GritEmbedding().to_dict()["model_name"] == "some/where"
    assert GritEmbedding(model_name="else/where").grit.source == "else/where"
    monkeypatch.delenv("GRIT_MODEL")
    assert GritEmbedding().model_name == "grit-mini"
    assert not GritEmbedding().grit.is_loaded


def test_to_dict_reads_no_weights(tiny_path: Path) -> None:
    embedding = GritEmbedding(tiny_path)
    embedding.to_dict()
    embedding.to_payload()
    assert not embedding.grit.is_loaded


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncte": True}, "Did you mean 'truncate'"),
        ({"dtype": "float16"}, "beside a GritLM"),
        ({"device": "cpu"}, "beside a GritLM"),
        ({"model_name": "other"}, "beside a GritLM"),
    ],
)
def test_wrong_options_are_refused(tiny: GritLM, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        GritEmbedding(tiny, **options)


def test_what_the_model_has_cannot_be_set_beside_it(embedding: GritEmbedding) -> None:
    with pytest.raises(ValueError, match="frozen"):
        embedding.truncate_dim = 8
    embedding.query_instruction = "Other"
    assert embedding.to_dict()["query_instruction"] == "Other"


def test_two_names_are_refused() -> None:
    with pytest.raises(OptionError, match="two models"):
        GritEmbedding("one", model_name="two")


# What it gives


def test_queries_and_texts_have_their_own_side(tiny: GritLM, embedding: GritEmbedding) -> None:
    query, text = embedding.get_query_embedding("Paris"), embedding.get_text_embedding("Paris")
    assert close(query, tiny.embed_queries(["Paris"], instruction=INSTRUCTION)[0])
    assert close(text, tiny.embed_documents(["Paris"])[0])
    assert not close(query, text)
    assert type(query) is type(text) is list
    assert {type(value) for value in query} == {float}
    instructed = GritEmbedding(tiny, text_instruction="Represent").get_text_embedding("Paris")
    assert close(instructed, tiny.embed_documents(["Paris"], instruction="Represent")[0])


def test_batches_keep_the_order(tiny: GritLM, embedding: GritEmbedding) -> None:
    wanted = tiny.embed_documents(TEXTS * 3)
    embedding.embed_batch_size = 5
    assert close(embedding.get_text_embedding_batch(TEXTS * 3), wanted)
    assert embedding.get_text_embedding_batch([]) == []


def test_a_whole_batch_reaches_the_model_at_once(embedding: GritEmbedding, encoded: list[int]) -> None:
    embedding.get_text_embedding_batch(["word"] * 100)
    assert encoded == [100]


def test_nodes_get_vectors(tiny: GritLM, embedding: GritEmbedding) -> None:
    nodes = embedding([TextNode(text=text, metadata={"source": "book"}) for text in TEXTS])
    wanted = tiny.embed_documents([f"source: book\n\n{text}" for text in TEXTS])
    assert close([node.embedding for node in nodes], wanted)


def test_bad_input_is_refused(embedding: GritEmbedding) -> None:
    with pytest.raises(EmptyTextError, match="Document 1"):
        embedding.get_text_embedding_batch(["good", "  "])
    with pytest.raises(PromptError, match="not a string"):
        embedding._get_text_embeddings([None])  # type: ignore[list-item]
    with pytest.raises(PromptError, match="truncate=True"):
        embedding.get_query_embedding("word " * 5000)


def test_truncate_cuts_what_does_not_fit(tiny: GritLM) -> None:
    embedding = GritEmbedding(tiny, truncate=True)
    assert len(embedding.get_text_embedding("word " * 5000)) == tiny.dim


# Async and threads


async def test_async_gives_the_same(embedding: GritEmbedding) -> None:
    assert close(await embedding.aget_query_embedding("Paris"), embedding.get_query_embedding("Paris"))
    assert close(await embedding.aget_text_embedding("Paris"), embedding.get_text_embedding("Paris"))
    assert close(await embedding.aget_text_embedding_batch(TEXTS), embedding.get_text_embedding_batch(TEXTS))
    nodes = await embedding.acall([TextNode(text=text) for text in TEXTS])
    assert close([node.embedding for node in nodes], embedding.get_text_embedding_batch(TEXTS))


async def test_async_leaves_the_loop_free(embedding: GritEmbedding) -> None:
    embedding.embed_batch_size = 32
    await assert_loop_stays_free(lambda: embedding.aget_text_embedding_batch(["word " * 1500] * 96), least=0.1)


async def test_concurrent_callers_get_their_own_vectors(tiny: GritLM, embedding: GritEmbedding) -> None:
    texts = [f"text number {index} " * (1 + index % 7) for index in range(16)]
    wanted = tiny.embed_documents(texts)
    found = await asyncio.gather(*(embedding.aget_text_embedding(text) for text in texts))
    assert close(found, wanted)
    with ThreadPoolExecutor(8) as pool:
        assert close(list(pool.map(embedding.get_text_embedding, texts)), wanted)


# The framework's embeddings cache


@pytest.fixture
def store() -> SimpleKVStore:
    return SimpleKVStore()


@pytest.fixture
def cached(tiny: GritLM, store: SimpleKVStore) -> GritEmbedding:
    return GritEmbedding(tiny, query_instruction=INSTRUCTION, embeddings_cache=store)


def test_cache_keeps_the_sides_apart(cached: GritEmbedding, embedding: GritEmbedding, encoded: list[int]) -> None:
    text, query = cached.get_text_embedding("Paris"), cached.get_query_embedding("Paris")
    assert len(encoded) == 2
    assert cached.get_text_embedding("Paris") == text
    assert cached.get_query_embedding("Paris") == query
    assert len(encoded) == 2, "the second time nothing is computed"
    assert close(text, embedding.get_text_embedding("Paris"))
    assert close(query, embedding.get_query_embedding("Paris"))


async def test_cache_keeps_the_sides_apart_in_async(cached: GritEmbedding, encoded: list[int]) -> None:
    text, query = await cached.aget_text_embedding("Paris"), await cached.aget_query_embedding("Paris")
    assert not close(text, query)
    assert await cached.aget_text_embedding("Paris") == text == cached.get_text_embedding("Paris")
    assert await cached.aget_query_embedding("Paris") == query == cached.get_query_embedding("Paris")
    assert len(encoded) == 2


async def test_cached_batches_compute_only_what_is_missing(
    cached: GritEmbedding, embedding: GritEmbedding, encoded: list[int]
) -> None:
    wanted = embedding.get_text_embedding_batch(TEXTS)
    cached.get_text_embedding(TEXTS[2])
    encoded.clear()
    assert close(cached.get_text_embedding_batch(TEXTS), wanted)
    assert close(cached.get_text_embedding_batch(TEXTS[::-1]), wanted[::-1])
    assert close(await cached.aget_text_embedding_batch(TEXTS), wanted)
    assert encoded == [3]


def test_models_and_options_share_a_store(
    cached: GritEmbedding, store: SimpleKVStore, tiny: GritLM, tiny_path: Path, other: GritLM, encoded: list[int]
) -> None:
    first = cached.get_text_embedding("Paris")
    assert not close(GritEmbedding(other, embeddings_cache=store).get_text_embedding("Paris"), first)
    short = GritEmbedding(tiny_path, truncate_dim=16, embeddings_cache=store).get_text_embedding("Paris")
    assert len(short) == 16
    GritEmbedding(tiny, query_instruction="Other", embeddings_cache=store).get_query_embedding("Paris")
    assert len(encoded) == 4
    assert GritEmbedding(tiny_path, embeddings_cache=store).get_text_embedding("Paris") == first
    assert len(encoded) == 4, "the same model under the same options hits"
    assert len(store.get_all("embeddings")) == 4


def test_cache_survives_on_disk(cached: GritEmbedding, store: SimpleKVStore, tmp_path: Path, tiny: GritLM) -> None:
    vector = cached.get_text_embedding("Paris")
    store.persist(str(tmp_path / "vectors.json"))
    reopened = SimpleKVStore.from_persist_path(str(tmp_path / "vectors.json"))
    assert GritEmbedding(tiny, embeddings_cache=reopened).get_text_embedding("Paris") == vector


def test_a_cache_set_later_is_as_safe(embedding: GritEmbedding, store: SimpleKVStore) -> None:
    embedding.embeddings_cache = store
    assert not close(embedding.get_text_embedding("Paris"), embedding.get_query_embedding("Paris"))
    embedding.embeddings_cache = None
    assert embedding.embeddings_cache is None
    with pytest.raises(OptionError, match="BaseKVStore"):
        embedding.embeddings_cache = {}


def test_bad_text_is_refused_in_front_of_a_cache(cached: GritEmbedding) -> None:
    cached.get_text_embedding("None")
    with pytest.raises(PromptError, match="not a string"):
        cached._get_text_embedding(None)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="surrogate"):
        cached.get_text_embedding("a\ud800")


# Events


async def test_events_come_once(tiny: GritLM, events: Callable[[], list[str]]) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    embedding = GritEmbedding(tiny, callback_manager=CallbackManager([debug]))
    embedding.get_query_embedding("Paris")
    embedding.get_text_embedding("Paris")
    embedding.get_text_embedding_batch(TEXTS)
    await embedding.aget_query_embedding("Paris")
    await embedding.aget_text_embedding_batch(TEXTS)
    assert events() == ["EmbeddingStartEvent", "EmbeddingEndEvent"] * 5
    assert len(debug.get_event_pairs(CBEventType.EMBEDDING)) == 5


def test_events_say_which_model_without_secrets(embedding: GritEmbedding, tiny_path: Path) -> None:
    payload = embedding.to_payload()
    assert payload["class_name"] == "GritEmbedding"
    assert payload["model_name"] == str(tiny_path)
    assert payload["query_instruction"] == INSTRUCTION
    json.dumps(payload)


# Ingestion


def pipeline(embedding: GritEmbedding, cache: IngestionCache | None = None) -> IngestionPipeline:
    splitter = SentenceSplitter(chunk_size=64, chunk_overlap=0)
    return IngestionPipeline(transformations=[splitter, embedding], cache=cache or IngestionCache())


def documents() -> list[Document]:
    return [Document(text=text, id_=str(index)) for index, text in enumerate(TEXTS)]


def test_ingestion_cache_hits_and_queries_still_work(embedding: GritEmbedding, encoded: list[int]) -> None:
    cache = IngestionCache()
    first = pipeline(embedding, cache).run(documents=documents())
    encoded.clear()
    again = pipeline(GritEmbedding.from_dict(embedding.to_dict()), cache).run(documents=documents())
    assert encoded == []
    assert [node.embedding for node in again] == [node.embedding for node in first]
    assert len(embedding.get_query_embedding("What pumps blood?")) == len(first[0].embedding or [])


def test_ingestion_cache_misses_when_vectors_would_differ(tmp_path: Path, tiny_path: Path, encoded: list[int]) -> None:
    cache = IngestionCache()
    model = tmp_path / "model"
    shutil.copytree(tiny_path, model)
    pipeline(GritEmbedding(model), cache).run(documents=documents())
    pipeline(GritEmbedding(model, truncate_dim=16), cache).run(documents=documents())
    pipeline(GritEmbedding(model, text_instruction="Other"), cache).run(documents=documents())
    shutil.rmtree(model)
    write_checkpoint(model, seed=5)  # trained anew under the old name
    GritEmbedding(model).grit.unload()  # until then a named model is the one that was opened
    pipeline(GritEmbedding(model), cache).run(documents=documents())
    assert len(encoded) == 4


def test_pickling_reloads_lazily_and_shares_weights(tiny: GritLM, embedding: GritEmbedding) -> None:
    copy = pickle.loads(pickle.dumps(embedding))
    assert copy.to_dict() == embedding.to_dict()
    assert not copy.grit.is_loaded
    assert deepcopy(embedding).to_dict() == embedding.model_copy().to_dict() == embedding.to_dict()
    assert close(copy.get_query_embedding("Paris"), embedding.get_query_embedding("Paris"))
    assert copy.grit._loaded() is tiny._loaded()


def test_pickling_keeps_where_the_model_runs(tiny_path: Path) -> None:
    copy = pickle.loads(pickle.dumps(GritEmbedding(tiny_path, device="cpu", truncate_dim=8)))
    assert copy.grit.load_options.device == "cpu"
    assert len(copy.get_text_embedding("Paris")) == 8


class Unpicklable:
    def __getstate__(self) -> None:
        raise TypeError("no")


def test_pickling_replaces_what_cannot_be_pickled(tiny: GritLM) -> None:
    handler = LlamaDebugHandler(print_trace_on_end=False)
    handler.extra = Unpicklable()  # type: ignore[attr-defined]
    embedding = GritEmbedding(tiny, callback_manager=CallbackManager([handler]))
    copy = pickle.loads(pickle.dumps(embedding))
    assert copy.callback_manager.handlers == []
    assert close(copy.get_text_embedding("Paris"), embedding.get_text_embedding("Paris"))


def test_ingestion_in_two_processes(tiny: GritLM, embedding: GritEmbedding) -> None:
    nodes = IngestionPipeline(transformations=[embedding]).run(documents=documents(), num_workers=2)
    assert close([node.embedding for node in nodes], tiny.embed_documents(TEXTS))


async def test_forked_processes_are_told_why_not(embedding: GritEmbedding) -> None:
    embedding.get_text_embedding("loaded before the fork")
    with pytest.raises(GritError, match="spawn"):
        await IngestionPipeline(transformations=[embedding]).arun(documents=documents(), num_workers=2)
