"""GritRetriever: the other retriever's nodes as they are, in the order that is preferred, known to the model."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import pytest
from endpoints import DOCUMENTS, QUESTION
from llama_index.core import Settings
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index_helpers import Fixed, index_of, nodes_of, scored
from pacemaker import assert_loop_stays_free

from grit_integrations import GritError, GritLM, OptionError
from grit_integrations.llama_index import (
    GritRetriever,
    KVCacheEvent,
    install,
)

Fresh = Callable[..., GritLM]
KVEvents = Callable[[], list[KVCacheEvent]]
FIRST = "What pumps?"


@pytest.mark.usefixtures("clean_settings")
async def test_documents_in_a_stock_prompt_are_read_once(fresh: Fresh, kv_events: KVEvents) -> None:
    grit = install(fresh(), max_new_tokens=5)
    index = index_of(grit)
    engine = RetrieverQueryEngine.from_args(GritRetriever(index.as_retriever()))
    engine.query(FIRST)
    answer = str(engine.query(QUESTION))
    assert kv_events()[-1].tokens_read >= grit.count_tokens("".join(DOCUMENTS))
    assert str(await engine.aquery(QUESTION)) == answer
    Settings.llm.caching = "off"
    assert str(index.as_query_engine().query(QUESTION)) == answer


async def test_nodes_come_as_they_are(fresh: Fresh) -> None:
    grit = fresh()
    plain = index_of(grit).as_retriever(similarity_top_k=2)
    wanted = plain.retrieve(QUESTION)
    retriever = GritRetriever(plain, grit)
    for found in (retriever.retrieve(QUESTION), await retriever.aretrieve(QUESTION)):
        assert [node.model_dump() for node in found] == [node.model_dump() for node in wanted]
    nodes = scored((DOCUMENTS[0], 0.5), ("", 0.4), (DOCUMENTS[1], None))
    before, objects = copy.deepcopy(nodes), list(nodes)
    found = GritRetriever(Fixed(nodes), grit).retrieve("x")
    assert all(one is other for one, other in zip(found, objects, strict=True))
    assert nodes == before


def test_an_index_is_a_retriever_too(fresh: Fresh) -> None:
    grit = fresh()
    assert len(GritRetriever(index_of(grit), grit).retrieve(QUESTION)) == 2


async def test_what_the_model_cannot_read_is_retrieved(fresh: Fresh, monkeypatch: pytest.MonkeyPatch) -> None:
    grit = fresh()
    nodes = scored(("word " * 9000, 0.6), ("\0", 0.5), ("", 0.4))
    for prefer_cached in (0.0, 0.5):
        assert GritRetriever(Fixed(nodes), grit, prefer_cached=prefer_cached).retrieve("x") == nodes
        assert await GritRetriever(Fixed(nodes), grit, prefer_cached=prefer_cached).aretrieve("x") == nodes
    monkeypatch.setattr(GritLM, "remember_documents", lambda *_: (_ for _ in ()).throw(GritError("no device")))
    assert GritRetriever(Fixed(nodes), grit).retrieve("x") == nodes
    assert GritRetriever(Fixed([]), grit).retrieve("x") == []


@pytest.mark.parametrize("mode", ["prefix", "doc"])
def test_stored_documents_may_come_first(fresh: Fresh, mode: Any) -> None:
    grit = fresh(caching=mode)
    grit.cache_documents([DOCUMENTS[1]])

    def order(nodes: list[NodeWithScore], eps: float) -> list[str]:
        return [node.text[:4] for node in GritRetriever(Fixed(nodes), grit, prefer_cached=eps).retrieve("x")]

    close = scored((DOCUMENTS[0], 0.50), (DOCUMENTS[1], 0.49), ("other", 0.48))
    assert order(close, 0.0) == order(close, 0.005) == ["The ", "Star", "othe"]
    assert order(close, 0.02) == ["Star", "The ", "othe"]
    assert order(scored((DOCUMENTS[0], None), (DOCUMENTS[1], 0.49)), 1.0) == ["The ", "Star"]
    assert order(scored((DOCUMENTS[0], 0.1), (DOCUMENTS[1], 0.49)), 1.0) == ["The ", "Star"], "someone else's order"
    for wrong in (-1, float("nan"), "much"):
        with pytest.raises(OptionError, match="prefer_cached"):
            GritRetriever(Fixed([]), grit, prefer_cached=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("mode", "warnings"), [("doc", 1), ("prefix", 0)])
def test_other_words_for_embedding_are_warned_of_once(
    fresh: Fresh, caplog: pytest.LogCaptureFixture, mode: Any, warnings: int
) -> None:
    grit = fresh(caching=mode)
    retriever = GritRetriever(index_of(grit, excluded_embed_metadata_keys=["page"]), grit)
    retriever.retrieve(FIRST)
    retriever.retrieve(QUESTION)
    assert caplog.text.count("embedded with another text") == warnings


async def test_a_retriever_without_async_leaves_the_loop_free(fresh: Fresh) -> None:
    class Slow(Fixed):
        def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
            time.sleep(0.2)
            return super()._retrieve(query_bundle)

    retriever = GritRetriever(Slow(nodes_of(*DOCUMENTS)), fresh().load())
    await assert_loop_stays_free(lambda: retriever.aretrieve("x"), least=0.2)
