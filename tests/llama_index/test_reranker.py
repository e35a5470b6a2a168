"""GritRerank: what comes back, what is announced, and query engines around it."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.callbacks.schema import EventPayload
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode

from grit_integrations import EmptyTextError, GritLM, OptionError, PromptError
from grit_integrations.llama_index import (
    GritEmbedding,
    GritLLM,
    GritQueryEngine,
    GritRerank,
    GritSynthesizer,
    KVCacheEvent,
    install,
)
from grit_integrations.testing import LlamaIndexRerankerSuite

Fresh = Callable[..., GritLM]
Names = Callable[[], list[str]]
QUESTION = "What pumps blood?"
METHODS = ["pointwise", "listwise", "embedding"]
TEXTS = [
    "Stars shine because they burn hydrogen to helium. " * 4,
    "Bread rises because yeast makes gas of sugar. " * 4,
    "The heart is a muscle that pumps blood through the body. " * 4,
]


def nodes() -> list[NodeWithScore]:
    """Nodes as retrieval leaves them, with metadata that is part of their text."""
    return [
        NodeWithScore(node=TextNode(text=text, id_=str(place), metadata={"page": place}), score=0.9 - place / 10)
        for place, text in enumerate(TEXTS)
    ]


def llm_texts(found: list[NodeWithScore]) -> list[str]:
    return [node.get_content(MetadataMode.LLM) for node in found]


def ids(found: list[NodeWithScore]) -> list[str]:
    return [node.node_id for node in found]


def index_of(grit: GritLM) -> VectorStoreIndex:
    documents = [Document(text=text, metadata={"page": page}) for page, text in enumerate(TEXTS)]
    return VectorStoreIndex.from_documents(documents, embed_model=GritEmbedding(grit))


# What comes back


@pytest.mark.parametrize("method", METHODS)
def test_it_says_what_the_model_says(tiny: GritLM, method: Any) -> None:
    given = nodes()
    found = GritRerank(tiny, method=method).postprocess_nodes(given, query_str=QUESTION)
    wanted = tiny.rerank(QUESTION, llm_texts(given), method=method)
    assert ids(found) == [given[one.index].node_id for one in wanted]
    assert [node.score for node in found] == [one.score for one in wanted]


def test_options_reach_the_model(tiny: GritLM) -> None:
    given = nodes()
    for options in (
        {"score": "logit", "top_n": 2},
        {"order": "passage-first", "passage_tokens": 12},
        {"method": "listwise", "window": 2, "step": 1},
        {"method": "embedding", "instruction": "Find what is meant"},
    ):
        found = GritRerank(tiny, **options).postprocess_nodes(given, query_str=QUESTION)
        wanted = tiny.rerank(QUESTION, llm_texts(given), **options)
        assert [(node.node_id, node.score) for node in found] == [(str(one.index), one.score) for one in wanted]


def test_the_best_answer_comes_first(mini: GritLM) -> None:
    found = GritRerank(mini, method="embedding", top_n=2).postprocess_nodes(nodes(), query_str=QUESTION)
    assert len(found) == 2
    assert found[0].text == TEXTS[2]


@pytest.mark.parametrize("method", METHODS)
def test_what_was_given_stays_as_it_was(tiny: GritLM, method: Any) -> None:
    given, before = nodes(), copy.deepcopy(nodes())
    found = GritRerank(tiny, method=method).postprocess_nodes(given, query_str=QUESTION)
    assert given == before
    by_id = {node.node_id: node for node in given}
    for node in found:
        old = by_id[node.node_id]
        assert node is not old
        assert node.node.hash == old.node.hash
        assert llm_texts([node]) == llm_texts([old])
        assert node.retrieval_score == old.score


def test_the_first_score_outlives_a_second_reranking(tiny: GritLM) -> None:
    once = GritRerank(tiny).postprocess_nodes(nodes(), query_str=QUESTION)
    twice = GritRerank(tiny, method="listwise").postprocess_nodes(once, query_str=QUESTION)
    assert {node.node_id: node.retrieval_score for node in twice} == {node.node_id: node.score for node in nodes()}
    assert twice[0].score == 1.0


def test_each_method_reads_the_text_of_its_blocks(tiny: GritLM) -> None:
    hidden = {"excluded_embed_metadata_keys": ["page"]}
    given = [NodeWithScore(node=TextNode(text=text, metadata={"page": 1}, **hidden)) for text in TEXTS]
    for method, mode in (("pointwise", MetadataMode.LLM), ("embedding", MetadataMode.EMBED)):
        found = GritRerank(tiny, method=method).postprocess_nodes(given, query_str=QUESTION)
        wanted = tiny.rerank(QUESTION, [node.get_content(mode) for node in given], method=method)
        assert [node.score for node in found] == [one.score for one in wanted]


def test_later_postprocessors_see_the_new_scores(tiny: GritLM) -> None:
    found = GritRerank(tiny, method="listwise").postprocess_nodes(nodes(), query_str=QUESTION)
    kept = SimilarityPostprocessor(similarity_cutoff=0.99).postprocess_nodes(found)
    assert ids(kept) == ids(found)[:1]


@pytest.mark.parametrize("method", METHODS)
async def test_async_equals_sync_and_leaves_the_loop_free(tiny: GritLM, method: Any) -> None:
    given = [NodeWithScore(node=TextNode(text=f"{text} {n}")) for n in range(8) for text in TEXTS]
    rerank = GritRerank(tiny, method=method, window=4, step=2)
    working, ticks = asyncio.create_task(rerank.apostprocess_nodes(given, QueryBundle(QUESTION))), 0
    while not working.done():
        await asyncio.sleep(0.001)
        ticks += 1
    assert ticks > 3
    found = rerank.postprocess_nodes(given, QueryBundle(QUESTION))
    assert ids(await working) == ids(found)


# Bad input


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"top_n": 0}, "top_n=0 is not possible"),
        ({"method": "pairwise"}, "method='pairwise' is unknown"),
        ({"order": "query-last"}, "order='query-last' is unknown"),
        ({"window": 5, "step": 5}, "window=5 and step=5"),
        ({"topn": 3}, "Did you mean 'top_n'"),
    ],
)
def test_impossible_options_are_refused_at_once(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        GritRerank("grit-mini", **options)


async def test_bad_calls_say_what_is_wrong(tiny: GritLM) -> None:
    rerank = GritRerank(tiny)
    with pytest.raises(PromptError, match="no query to put the nodes in order for"):
        rerank.postprocess_nodes(nodes())
    with pytest.raises(PromptError, match="no query to put the nodes in order for"):
        await rerank.apostprocess_nodes(nodes())
    with pytest.raises(EmptyTextError):
        rerank.postprocess_nodes(nodes(), query_str=" ")
    with pytest.raises(PromptError, match="1"):
        rerank.postprocess_nodes([nodes()[0], NodeWithScore(node=TextNode(text="NUL \x00"))], query_str=QUESTION)


# What is announced

BAD = [NodeWithScore(node=TextNode(text="NUL \x00"))]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("given", [nodes(), [], BAD], ids=["some", "none", "bad"])
async def test_what_begins_ends(tiny: GritLM, events: Names, given: list[NodeWithScore], asynchronous: bool) -> None:
    handler = LlamaDebugHandler(print_trace_on_end=False)
    rerank = GritRerank(tiny, top_n=2, callback_manager=CallbackManager([handler]))
    try:
        if asynchronous:
            found = await rerank.apostprocess_nodes(given, query_str=QUESTION)
        else:
            found = rerank.postprocess_nodes(given, query_str=QUESTION)
    except PromptError:
        assert given is BAD
        found = []
    assert len(found) == (2 if len(given) == 3 else 0)
    assert [name for name in events() if name.startswith("ReRank")] == ["ReRankStartEvent", "ReRankEndEvent"]
    [(start, end)] = handler.get_event_pairs(CBEventType.RERANKING)
    assert start.payload[EventPayload.NODES] == given
    assert (start.payload[EventPayload.QUERY_STR], start.payload[EventPayload.TOP_K]) == (QUESTION, 2)
    if given is BAD:
        assert isinstance(end.payload[EventPayload.EXCEPTION], PromptError)
    else:
        assert end.payload[EventPayload.NODES] == found


async def test_cancelled_work_ends_too(tiny: GritLM, events: Names) -> None:
    handler = LlamaDebugHandler(print_trace_on_end=False)
    rerank = GritRerank(tiny, callback_manager=CallbackManager([handler]))
    given = [NodeWithScore(node=TextNode(text=f"{text} {n}")) for n in range(8) for text in TEXTS]
    working = asyncio.create_task(rerank.apostprocess_nodes(given, query_str=QUESTION))
    await asyncio.sleep(0.01)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert [name for name in events() if name.startswith("ReRank")] == ["ReRankStartEvent", "ReRankEndEvent"]
    assert len(handler.get_event_pairs(CBEventType.RERANKING)[0]) == 2


# As a component


def test_it_can_be_written_down_and_sent_elsewhere(tiny: GritLM) -> None:
    rerank = GritRerank(tiny, top_n=2, method="listwise", window=4, step=2)
    again = GritRerank.from_dict(rerank.to_dict())
    assert again.to_dict() == rerank.to_dict()
    assert (again.top_n, again.method, again.window, again.model_name) == (2, "listwise", 4, tiny.source)
    sent = pickle.loads(pickle.dumps(rerank))
    assert sent.to_dict() == rerank.to_dict()
    found = rerank.postprocess_nodes(nodes(), query_str=QUESTION)
    assert ids(sent.postprocess_nodes(nodes(), query_str=QUESTION)) == ids(found)
    assert sent.grit.lm is tiny.lm
    assert rerank.class_name() == "GritRerank"


@pytest.mark.usefixtures("clean_settings")
def test_the_model_is_that_of_settings_unless_one_is_named(tiny: GritLM) -> None:
    assert GritRerank().model_name == "grit-mini"
    install(tiny)
    assert GritRerank().grit is Settings.llm.grit is tiny
    assert GritRerank(model_name="grit-mini").model_name == "grit-mini"
    assert not GritRerank("grit-mini").grit.is_loaded


# The conformance suite


class _Suite(LlamaIndexRerankerSuite):
    options: ClassVar[dict[str, Any]] = {}

    def postprocessor(self, top_n: int) -> BaseNodePostprocessor:
        return GritRerank(self.grit, top_n=top_n, **self.options)

    @pytest.fixture(autouse=True)
    def _take_the_model(self, mini: GritLM) -> None:
        self.grit = mini


class TestPointwise(_Suite):
    pass


class TestPointwiseFromBlocks(_Suite):
    options: ClassVar[dict[str, Any]] = {"order": "passage-block"}


class TestListwise(_Suite):
    options: ClassVar[dict[str, Any]] = {"method": "listwise", "window": 4, "step": 2}
    independent = False


class TestEmbedding(_Suite):
    options: ClassVar[dict[str, Any]] = {"method": "embedding"}


# In query engines


async def test_an_unmodified_query_engine(fresh: Fresh, events: Names) -> None:
    grit = fresh()
    llm, rerank = GritLLM(grit, max_new_tokens=4), GritRerank(grit, top_n=2)
    engine = index_of(grit).as_query_engine(llm=llm, similarity_top_k=3, node_postprocessors=[rerank])
    handler = LlamaDebugHandler(print_trace_on_end=False)
    engine.callback_manager = CallbackManager([handler])
    response = engine.query(QUESTION)
    wanted = rerank.postprocess_nodes(engine._retriever.retrieve(QUESTION), query_str=QUESTION)
    assert ids(response.source_nodes) == ids(wanted)
    assert [node.score for node in response.source_nodes] == pytest.approx([node.score for node in wanted], abs=1e-5)
    assert response.source_nodes[0].retrieval_score is not None
    again = await engine.aquery(QUESTION)
    assert (str(again), ids(again.source_nodes)) == (str(response), ids(wanted))
    seen = events()
    assert seen.count("ReRankStartEvent") == seen.count("ReRankEndEvent") == 3


@pytest.mark.parametrize(("caching", "order"), [("prefix", "passage-first"), ("doc", "passage-block")])
def test_an_answer_starts_from_what_reranking_read(
    fresh: Fresh, kv_events: Callable[[], list[KVCacheEvent]], caching: Any, order: Any
) -> None:
    grit = fresh(caching=caching)
    best = GritRerank(grit, order=order, top_n=1).postprocess_nodes(nodes(), query_str=QUESTION)
    response = GritSynthesizer(GritLLM(grit, max_new_tokens=4)).synthesize(QUESTION, best)
    assert kv_events()[-1].tokens_read > 40
    plain = GritSynthesizer(GritLLM(fresh(caching=caching), max_new_tokens=4)).synthesize(QUESTION, best)
    assert kv_events()[-1].tokens_read == 0
    assert str(response) == str(plain)


def test_retrieve_rerank_answer_with_one_model(fresh: Fresh, kv_events: Callable[[], list[KVCacheEvent]]) -> None:
    grit = fresh(caching="doc")
    rerank = GritRerank(grit, order="passage-block", top_n=1)
    engine = GritQueryEngine.from_index(index_of(grit), grit, top_k=3, node_postprocessors=[rerank], max_new_tokens=4)
    response = engine.query(QUESTION)
    assert len(response.source_nodes) == 1
    assert kv_events()[-1].tokens_read > 40
