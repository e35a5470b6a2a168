"""install(): one GritLM behind the framework's global settings, and nothing loaded before it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_index.core
import pytest
from llama_index.core import (
    Settings,
    SimpleDirectoryReader,
    StorageContext,
    VectorStoreIndex,
    load_index_from_storage,
)
from llama_index.core.agent.workflow import ReActAgent
from llama_index.core.indices.prompt_helper import PromptHelper
from llama_index.core.settings import _Settings

from grit_integrations import GritLM, OptionError
from grit_integrations.llama_index import GritEmbedding, GritLLM, install

INSTRUCTION = "Given a question, retrieve passages that answer it"
PASSAGES = [
    "The heart pumps blood through the arteries.",
    "Stars shine because hydrogen fuses into helium.",
    "A verb agrees with its subject in number.",
    "Iron rusts when water and oxygen reach it.",
]
QUESTION = "Why do stars shine?"


@pytest.mark.usefixtures("clean_settings")
def test_install_sets_everything_and_loads_nothing(tiny_path: Path) -> None:
    grit = install(tiny_path, query_instruction=INSTRUCTION, max_new_tokens=16, system_prompt="Be brief.")
    assert not grit.is_loaded
    assert isinstance(Settings.llm, GritLLM)
    assert isinstance(Settings.embed_model, GritEmbedding)
    assert Settings.llm.grit is Settings.embed_model.grit is grit
    assert Settings.llm.system_prompt == "Be brief."
    assert Settings.embed_model.query_instruction == INSTRUCTION
    assert Settings.context_window == 4096
    assert Settings.num_output == Settings.llm.metadata.num_output
    assert llama_index.core.global_tokenizer("Hello, world") == grit.tokenize("Hello, world")
    assert not grit.is_loaded


@pytest.mark.usefixtures("clean_settings")
def test_install_replaces_helpers_of_another_model(tiny: GritLM) -> None:
    Settings.prompt_helper = PromptHelper(context_window=123)
    install(tiny)
    assert Settings.context_window == 4096


@pytest.mark.usefixtures("clean_settings")
def test_install_into_other_settings(tiny: GritLM) -> None:
    mine = _Settings()
    assert install(tiny, settings=mine) is tiny
    assert mine.llm.grit is mine.embed_model.grit is tiny
    assert Settings._llm is None


@pytest.mark.usefixtures("clean_settings")
def test_install_refuses_before_it_sets_anything(tiny: GritLM) -> None:
    with pytest.raises(OptionError, match="Did you mean 'max_new_tokens'"):
        install(tiny, max_new_token=3)
    assert Settings._llm is None
    assert llama_index.core.global_tokenizer is None


@pytest.mark.usefixtures("clean_settings")
async def test_the_starter_page(tiny: GritLM, tmp_path: Path) -> None:
    data, storage = tmp_path / "data", tmp_path / "storage"
    data.mkdir()
    for number, text in enumerate(PASSAGES):
        (data / f"{number}.txt").write_text(" ".join([text] * 40))
    install(tiny, query_instruction=INSTRUCTION, max_new_tokens=6)

    index = VectorStoreIndex.from_documents(SimpleDirectoryReader(str(data)).load_data())
    index.storage_context.persist(str(storage))
    first = index.as_query_engine().query(QUESTION)
    index = load_index_from_storage(StorageContext.from_defaults(persist_dir=str(storage)))
    again = index.as_query_engine().query(QUESTION)

    assert str(first) == str(again) != ""
    assert [node.text for node in first.source_nodes] == [node.text for node in again.source_nodes]
    assert first.source_nodes[0].metadata["file_name"].endswith(".txt")
    assert str(await index.as_query_engine().aquery(QUESTION)) == str(first)
    streamed = index.as_query_engine(streaming=True).query(QUESTION)
    assert "".join(streamed.response_gen) == str(first)


@pytest.mark.usefixtures("clean_settings")
def test_nothing_is_loaded_before_it_is_used(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr("grit_integrations.handle.shared_engine", load)
    install(tiny_path, max_new_tokens=4)
    index = VectorStoreIndex(nodes=[])
    index.as_query_engine()
    index.as_chat_engine(chat_mode="context")
    ReActAgent(tools=[], llm=Settings.llm)
    GritLLM.from_dict(Settings.llm.to_dict())
    GritEmbedding.from_dict(Settings.embed_model.to_dict())
    with pytest.raises(AssertionError, match="were loaded"):
        Settings.llm.complete("now")
