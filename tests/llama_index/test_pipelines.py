"""Both adapters in the framework's own pipelines: indexes, query engines, chat engines, agents, Chroma."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chromadb
import pytest
from llama_index.core import (
    Document,
    Settings,
    StorageContext,
    VectorStoreIndex,
)
from llama_index.core.agent.workflow import AgentWorkflow, ReActAgent
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.tools import QueryEngineTool
from llama_index.vector_stores.chroma import ChromaVectorStore

from grit_integrations import GritLM
from grit_integrations.llama_index import GritEmbedding, GritLLM, install

INSTRUCTION = "Given a question, retrieve passages that answer it"
PASSAGES = [
    "The heart pumps blood through the arteries.",
    "Stars shine because hydrogen fuses into helium.",
    "A verb agrees with its subject in number.",
    "Iron rusts when water and oxygen reach it.",
]
QUESTION = "Why do stars shine?"


@pytest.fixture
def llm(tiny: GritLM) -> GritLLM:
    return GritLLM(tiny, max_new_tokens=6)


@pytest.fixture
def embedding(tiny: GritLM) -> GritEmbedding:
    return GritEmbedding(tiny, query_instruction=INSTRUCTION)


@pytest.fixture
def index(embedding: GritEmbedding) -> VectorStoreIndex:
    documents = [Document(text=text, metadata={"page": page}) for page, text in enumerate(PASSAGES)]
    return VectorStoreIndex.from_documents(documents, embed_model=embedding)


def test_a_missing_framework_names_its_extra() -> None:
    code = """
import sys
sys.modules["llama_index"] = None
try:
    import grit_integrations.llama_index
except ImportError as error:
    assert type(error).__name__ == "MissingExtraError", error
    assert "pip install 'grit_integrations[llama-index]'" in str(error), error
else:
    raise SystemExit("imported")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# Query engines

MODES = ["compact", "refine", "tree_summarize", "simple_summarize", "accumulate", "compact_accumulate", "generation"]


@pytest.mark.parametrize("mode", MODES)
async def test_response_modes(index: VectorStoreIndex, llm: GritLLM, mode: str) -> None:
    engine = index.as_query_engine(llm=llm, response_mode=mode, similarity_top_k=3)
    response = engine.query(QUESTION)
    assert str(response).strip()
    assert len(response.source_nodes) == 3
    assert str(await engine.aquery(QUESTION)) == str(response)


@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize", "simple_summarize", "generation"])
async def test_response_modes_stream(index: VectorStoreIndex, llm: GritLLM, mode: str) -> None:
    plain = str(index.as_query_engine(llm=llm, response_mode=mode).query(QUESTION))
    engine = index.as_query_engine(llm=llm, response_mode=mode, streaming=True)
    assert "".join(engine.query(QUESTION).response_gen) == plain
    response = await engine.aquery(QUESTION)
    assert "".join([token async for token in response.async_response_gen()]) == plain


@pytest.mark.usefixtures("clean_settings")
@pytest.mark.parametrize("mode", ["compact", "tree_summarize", "compact_accumulate"])
def test_long_contexts_fit_the_window(tiny: GritLM, prompts: Any, mode: str) -> None:
    install(tiny, max_new_tokens=6)
    Settings.chunk_size, Settings.chunk_overlap = 1900, 0
    index = VectorStoreIndex.from_documents([Document(text=" ".join([text] * 160)) for text in PASSAGES])
    engine = index.as_query_engine(similarity_top_k=4, response_mode=mode)
    assert str(engine.query(QUESTION)).strip()
    assert len(prompts) > 1, "they do not fit into one prompt"
    assert max(len(ids) for ids, _ in prompts) <= 4096 - 6


async def test_a_query_announces_its_steps_once(
    index: VectorStoreIndex, llm: GritLLM, events: Callable[[], list[str]]
) -> None:
    engine = index.as_query_engine(llm=llm)
    engine.query(QUESTION)
    seen = events()
    for name in ("Query", "Retrieval", "Embedding", "Synthesize", "LLMChat", "LLMPredict"):
        assert seen.count(f"{name}StartEvent") == seen.count(f"{name}EndEvent") == 1, name


@pytest.mark.usefixtures("clean_settings")
def test_token_counter_sees_a_query(index: VectorStoreIndex, tiny: GritLM, llm: GritLLM, prompts: Any) -> None:
    counter = TokenCountingHandler(tokenizer=tiny.tokenize)
    Settings.callback_manager = CallbackManager([counter])
    index.as_query_engine(llm=llm).query(QUESTION)
    assert counter.prompt_llm_token_count == len(prompts[0][0])
    assert counter.completion_llm_token_count == 6


# Chat engines and agents


@pytest.mark.parametrize("mode", ["condense_question", "context", "condense_plus_context"])
async def test_chat_modes(index: VectorStoreIndex, llm: GritLLM, mode: str) -> None:
    engine = index.as_chat_engine(chat_mode=mode, llm=llm)
    assert str(engine.chat("What shines?")).strip()
    assert str(engine.chat("And why?")).strip()
    assert str(await engine.achat("Really?")).strip()
    assert "".join(engine.stream_chat("Tell me more.").response_gen).strip()
    streamed = await engine.astream_chat("Go on.")
    assert "".join([token async for token in streamed.async_response_gen()]).strip()
    assert len(engine.chat_history) == 10


def test_simple_chat_remembers(llm: GritLLM, prompts: Any) -> None:
    engine = SimpleChatEngine.from_defaults(llm=llm, system_prompt="Be brief.")
    engine.chat("one")
    engine.chat("two")
    assert len(prompts[1][0]) > len(prompts[0][0])
    assert prompts[1][0].count(1) == 1


async def test_react_agent_runs(index: VectorStoreIndex, llm: GritLLM) -> None:
    tool = QueryEngineTool.from_defaults(index.as_query_engine(llm=llm), name="library", description="Answers.")
    agent = ReActAgent(tools=[tool], llm=llm)
    response = await agent.run("Why do stars shine?")
    assert isinstance(str(response), str)
    workflow = AgentWorkflow.from_tools_or_functions([tool], llm=llm)
    assert isinstance(next(iter(workflow.agents.values())), ReActAgent)


# Chroma


def chroma(path: Path) -> ChromaVectorStore:
    client = chromadb.PersistentClient(path=str(path))
    return ChromaVectorStore(chroma_collection=client.get_or_create_collection("book"))


def test_chroma_round_trip_across_a_reopen(embedding: GritEmbedding, llm: GritLLM, tmp_path: Path) -> None:
    documents = [Document(text=text, id_=str(n), metadata={"page": n}) for n, text in enumerate(PASSAGES)]
    context = StorageContext.from_defaults(vector_store=chroma(tmp_path / "db"))
    index = VectorStoreIndex.from_documents(documents, storage_context=context, embed_model=embedding)
    before = index.as_retriever(similarity_top_k=4).retrieve(PASSAGES[1])
    del index, context
    chromadb.api.client.SharedSystemClient.clear_system_cache()

    reopened = VectorStoreIndex.from_vector_store(chroma(tmp_path / "db"), embed_model=embedding)
    after = reopened.as_retriever(similarity_top_k=4).retrieve(PASSAGES[1])
    assert [(n.node.get_content(), n.metadata) for n in after] == [(n.node.get_content(), n.metadata) for n in before]
    assert [n.score for n in after] == pytest.approx([n.score for n in before])
    assert {n.metadata["page"] for n in after} == {0, 1, 2, 3}
    assert str(reopened.as_query_engine(llm=llm).query(QUESTION)).strip()


def test_ingestion_upserts_into_chroma(embedding: GritEmbedding, tmp_path: Path, encoded: list[int]) -> None:
    def run(texts: list[str]) -> int:
        pipeline = IngestionPipeline(
            transformations=[SentenceSplitter(chunk_size=64, chunk_overlap=0), embedding],
            vector_store=chroma(tmp_path / "db"),
            docstore=docstore,
        )
        return len(pipeline.run(documents=[Document(text=text, id_=str(n)) for n, text in enumerate(texts)]))

    docstore = SimpleDocumentStore()
    assert run(PASSAGES) == 4
    assert run([*PASSAGES[:3], "Iron is a metal."]) == 1
    assert encoded == [4, 1]
    assert chroma(tmp_path / "db")._collection.count() == 4


def test_index_files_are_json(index: VectorStoreIndex, tmp_path: Path) -> None:
    index.storage_context.persist(str(tmp_path))
    stored = json.loads((tmp_path / "default__vector_store.json").read_text())
    assert len(stored["embedding_dict"]) == len(PASSAGES)
