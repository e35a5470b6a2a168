"""Which model a component means: made for each request, it finds the weights and the KV cache again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_checkpoint
from endpoints import DOCUMENTS
from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index_helpers import Fixed, nodes_of
from loads import noted_loads

from grit_integrations import GritLM
from grit_integrations.llama_index import (
    GritEmbedding,
    GritLLM,
    GritQueryEngine,
    GritRerank,
    GritRetriever,
    GritSynthesizer,
    install,
)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The checkpoints whose weights have been read so far."""
    return noted_loads(monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A model that nobody has loaded yet."""
    return str(write_checkpoint(tmp_path / "GritLM-fresh", seed=3))


def answered(llm: GritLLM, question: str) -> int:
    """How many prompt tokens of an answer were read from the cache."""
    return int(llm.complete(question, documents=DOCUMENTS).raw["usage"]["cache_read_tokens"])


def made_anew(path: str) -> Callable[[str], int]:
    return lambda question: answered(GritLLM(path, max_new_tokens=2), question)


def made_with_other_options(path: str) -> Callable[[str], int]:
    return lambda question: answered(GritLLM(path, max_new_tokens=2, seed=len(question), top_k=5), question)


def read_back(path: str) -> Callable[[str], int]:
    data = GritLLM(path, max_new_tokens=2).to_dict()
    return lambda question: answered(GritLLM.from_dict(data), question)


@pytest.mark.parametrize("way", [made_anew, made_with_other_options, read_back])
def test_requests_load_the_weights_once_and_find_the_cache_again(way: Any, path: str, loads: list[str]) -> None:
    ask = way(path)
    read = [ask(f"What pumps, in {n} words?") for n in range(20)]
    assert loads == [path]
    assert read[0] == 0
    assert all(count > 30 for count in read[1:])


def test_every_kind_of_component_finds_the_same_weights(path: str, loads: list[str]) -> None:
    for _ in range(3):
        documents = [Document(text=text) for text in DOCUMENTS]
        index = VectorStoreIndex.from_documents(documents, embed_model=GritEmbedding(path))
        assert GritRetriever(Fixed(nodes_of(*DOCUMENTS)), path).retrieve("What pumps?")
        assert GritRerank(path, top_n=1).postprocess_nodes(nodes_of(*DOCUMENTS), query_str="What pumps?")
        assert str(GritQueryEngine.from_index(index, path, max_new_tokens=2).query("What pumps?"))
        assert GritSynthesizer(GritLLM(path, max_new_tokens=2)).get_response("What pumps?", DOCUMENTS)
    assert loads == [path]


@pytest.mark.usefixtures("clean_settings")
def test_the_process_has_one_model_of_a_name(path: str) -> None:
    assert install(path) is install(path) is GritEmbedding(path).grit
    assert GritRetriever(Fixed([])).grit is Settings.llm.grit
    assert GritEmbedding(path, truncate_dim=8).grit is not GritEmbedding(path).grit


def test_a_models_settings_are_the_callers(tiny: GritLM) -> None:
    before = tiny.settings
    GritLLM(tiny, caching="doc", max_new_tokens=1).complete("Hello", documents=DOCUMENTS)
    GritRetriever(Fixed(nodes_of(*DOCUMENTS)), tiny, prefer_cached=0.1).retrieve("Hello")
    assert tiny.settings is before
