"""GritReranker: what comes back, in which shape and order; alone, in LangChain's retrievers and in ours."""

from __future__ import annotations

import asyncio
import copy
from pathlib import Path
from typing import Any, ClassVar

import pytest
from langchain_chroma import Chroma
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_helpers import cache_read, documents, renewed

from grit_integrations import EmptyTextError, GritLM, OptionError, PromptError
from grit_integrations.langchain import ChatGrit, GritEmbeddings, GritReranker, GritRetriever
from grit_integrations.testing import LangChainRerankerSuite

QUESTION = "What pumps blood?"
METHODS = ["pointwise", "listwise", "embedding"]
FACTS = [
    Document("Stars shine because they burn hydrogen to helium.", id="s", metadata={"page": 3}),
    Document("Bread rises because yeast makes gas of sugar.", id="b", metadata={"page": 2}),
    Document("The heart is a muscle that pumps blood through the body.", id="h", metadata={"page": 1}),
]


def texts(found: Any) -> list[str]:
    return [document.page_content for document in found]


def scores(found: Any) -> list[float]:
    return [document.metadata["relevance_score"] for document in found]


class Fixed(BaseRetriever):
    """Returns what it was given, as some other retriever would."""

    found: list[Document]

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return self.found


class Backwards(BaseDocumentCompressor):
    """Some other compressor, which notes what it is given."""

    seen: list[int] = []  # noqa: RUF012  # a pydantic field: every object gets its own

    def compress_documents(self, documents: Any, query: str, callbacks: Any = None) -> list[Document]:
        self.seen.append(len(documents))
        return list(documents)[::-1]


# What comes back


@pytest.mark.parametrize("method", METHODS)
def test_it_says_what_the_model_says(fresh: GritLM, method: Any) -> None:
    given = documents("agreement")
    before = copy.deepcopy(given)
    found = GritReranker(model=fresh, method=method).compress_documents(given, QUESTION)
    wanted = fresh.rerank(QUESTION, texts(given), method=method)
    assert texts(found) == [given[one.index].page_content for one in wanted]
    assert scores(found) == [one.score for one in wanted] == sorted(scores(found), reverse=True)
    assert given == before


def test_options_reach_the_model(fresh: GritLM) -> None:
    given = documents("options")
    for options in (
        {"score": "logit"},
        {"order": "passage-first", "passage_tokens": 12},
        {"method": "listwise", "window": 2, "step": 1},
        {"method": "embedding", "instruction": "Find what is meant"},
    ):
        found = GritReranker(model=fresh, **options).rerank(given, QUESTION)
        wanted = fresh.rerank(QUESTION, texts(given), **options)
        assert found == [{"index": one.index, "relevance_score": one.score} for one in wanted]


def test_the_best_answer_comes_first(mini: GritLM) -> None:
    found = GritReranker(model=mini, method="embedding", top_n=2).compress_documents(FACTS, QUESTION)
    assert found[0].id == "h"
    assert len(found) == 2


def test_documents_keep_what_they_have_and_share_nothing(fresh: GritLM) -> None:
    given = Document("The heart pumps.", id="own", metadata={"tags": ["a"], "relevance_score": 99.0})
    [found] = GritReranker(model=fresh).compress_documents([given], QUESTION)
    assert (found.id, found.page_content, found.metadata["tags"]) == ("own", given.page_content, ["a"])
    assert 0 <= found.metadata["relevance_score"] <= 1, "the score of retrieval is out of date"
    found.metadata["tags"].append("b")
    assert given.metadata == {"tags": ["a"], "relevance_score": 99.0}


@pytest.mark.parametrize("method", METHODS)
def test_equal_and_blank_documents_stay_in_their_order(fresh: GritLM, method: Any) -> None:
    given = [Document(text, id=str(place)) for place, text in enumerate(["", "same", " ", "same"])]
    found = GritReranker(model=fresh, method=method).compress_documents(given, QUESTION)
    assert [document.id for document in found] == ["1", "3", "0", "2"]


def test_top_n_and_threshold_leave_the_best(fresh: GritLM) -> None:
    given = documents("limits")
    every = GritReranker(model=fresh).compress_documents(given, QUESTION)
    assert GritReranker(model=fresh, top_n=2).compress_documents(given, QUESTION) == every[:2]
    assert GritReranker(model=fresh, top_n=9).compress_documents(given, QUESTION) == every
    limit = scores(every)[1]
    best = [document for document in every if document.metadata["relevance_score"] >= limit]
    assert GritReranker(model=fresh, score_threshold=limit).compress_documents(given, QUESTION) == best
    assert GritReranker(model=fresh, score_threshold=1.1).compress_documents(given, QUESTION) == []


def test_rerank_has_the_shape_of_other_providers(fresh: GritLM) -> None:
    given = documents("shape")
    reranker = GritReranker(model=fresh, top_n=2)
    wanted = fresh.rerank(QUESTION, texts(given))
    every = [{"index": one.index, "relevance_score": one.score} for one in wanted]
    assert reranker.rerank(given, QUESTION) == every[:2] == reranker.rerank(given, QUESTION, top_n=-1)
    assert reranker.rerank(given, QUESTION, top_n=None) == every
    assert reranker.rerank(given, QUESTION, top_n=1) == every[:1]
    mixed = [given[0].page_content, {"text": given[1].page_content}, {"page_content": given[2].page_content}]
    assert reranker.rerank(mixed, QUESTION, top_n=None) == every


async def test_nothing_to_put_in_order(fresh: GritLM) -> None:
    reranker = GritReranker(model=fresh)
    assert reranker.compress_documents([], QUESTION) == reranker.rerank([], QUESTION) == []
    assert await reranker.acompress_documents([], QUESTION) == []


@pytest.mark.parametrize("method", METHODS)
async def test_async_equals_sync_and_leaves_the_loop_free(fresh: GritLM, method: Any) -> None:
    given = [Document(f"{document.page_content} {n}") for n in range(8) for document in documents("async")]
    reranker = GritReranker(model=fresh, method=method, window=4, step=2)
    working, ticks = asyncio.create_task(reranker.acompress_documents(given, QUESTION)), 0
    while not working.done():
        await asyncio.sleep(0.001)
        ticks += 1
    assert ticks > 3
    found = reranker.compress_documents(given, QUESTION)
    assert texts(await working) == texts(found)
    assert scores(await working) == pytest.approx(scores(found), abs=1e-5)


# Bad input


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"top_n": 0}, "top_n=0 is not possible"),
        ({"top_n": -1}, "top_n=-1 is not possible"),
        ({"score_threshold": float("nan")}, "score_threshold=nan"),
        ({"method": "pairwise"}, "pairwise"),
        ({"order": "query-last"}, "query-last"),
        ({"passage_tokens": 0}, "passage_tokens=0"),
        ({"window": 5, "step": 5}, "window=5 and step=5"),
        ({"topn": 3}, "topn"),
    ],
)
def test_impossible_options_are_refused_at_once(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        GritReranker(**options)


def test_bad_calls_say_what_is_wrong(fresh: GritLM) -> None:
    reranker = GritReranker(model=fresh)
    with pytest.raises(EmptyTextError):
        reranker.compress_documents(FACTS, " ")
    with pytest.raises(OptionError, match="top_n=0"):
        reranker.rerank(FACTS, QUESTION, top_n=0)
    with pytest.raises(PromptError, match="Document 1 is a dict without a text"):
        reranker.rerank(["text", {"title": "no text"}], QUESTION)
    with pytest.raises(PromptError, match="Document 0 is a int"):
        reranker.rerank([3], QUESTION)
    for one in ("text", FACTS[0], {"text": "text"}):
        with pytest.raises(PromptError, match=r"Give a list, also for one: \[document\]"):
            reranker.rerank(one, QUESTION)
    with pytest.raises(PromptError, match="1"):
        reranker.compress_documents([FACTS[0], Document("NUL \x00")], QUESTION)


def test_constructing_opens_nothing() -> None:
    assert GritReranker(model="no-such/model", local_files_only=True).top_n is None


# As a cross-encoder


def test_pairs_keep_their_order(fresh: GritLM) -> None:
    first, second, third = texts(documents("pairs"))
    reranker = GritReranker(model=fresh, top_n=1, score_threshold=2)
    pairs = [(QUESTION, first), ("What shines?", second), (QUESTION, third), (QUESTION, first)]
    found = reranker.as_cross_encoder().score(pairs)
    alone = {one.index: one.score for one in fresh.rerank(QUESTION, [first, third])}
    [other] = fresh.rerank("What shines?", [second])
    assert found == pytest.approx([alone[0], other.score, alone[1], alone[0]], abs=1e-5)
    assert reranker.as_cross_encoder().score([]) == []
    assert all(type(score) is float for score in found)


def test_bad_pairs_are_named(fresh: GritLM) -> None:
    encoder = GritReranker(model=fresh).as_cross_encoder()
    with pytest.raises(EmptyTextError, match="The query of pair 1"):
        encoder.score([(QUESTION, "text"), ("", "text")])
    with pytest.raises(PromptError, match="The text of pair 1"):
        encoder.score([(QUESTION, "text"), ("Why?", None)])


def test_langchains_own_reranker_takes_the_cross_encoder(fresh: GritLM) -> None:
    compressors = pytest.importorskip("langchain_classic.retrievers.document_compressors")
    encoder = GritReranker(model=fresh).as_cross_encoder()
    assert isinstance(encoder, BaseCrossEncoder)
    given = documents("cross-encoder")
    found = compressors.CrossEncoderReranker(model=encoder, top_n=2).compress_documents(given, QUESTION)
    assert texts(found) == texts(GritReranker(model=fresh, top_n=2).compress_documents(given, QUESTION))


# The conformance suite


class _Suite(LangChainRerankerSuite):
    options: ClassVar[dict[str, Any]] = {}

    def compressor(self, top_n: int) -> BaseDocumentCompressor:
        return GritReranker(model=self.grit, top_n=top_n, **self.options)

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


# In LangChain's retriever


async def test_it_compresses_what_chroma_finds(mini: GritLM, tmp_path: Path) -> None:
    retrievers = pytest.importorskip("langchain_classic.retrievers")
    store = Chroma("rerank", GritEmbeddings(model=mini), persist_directory=str(tmp_path))
    store.add_documents(FACTS)
    retriever = retrievers.ContextualCompressionRetriever(
        base_compressor=GritReranker(model=mini, method="embedding", top_n=2),
        base_retriever=store.as_retriever(search_kwargs={"k": 3}),
    )
    found = retriever.invoke(QUESTION)
    assert found[0].id == "h"
    assert scores(found) == sorted(scores(found), reverse=True)
    assert found[0].metadata["page"] == 1
    assert texts(await retriever.ainvoke(QUESTION)) == texts(found)


# In GritRetriever


async def test_the_best_k_of_more_come_back(fresh: GritLM) -> None:
    given = documents("retriever")
    retriever = GritRetriever.from_documents(given, model=fresh, k=2, reranker=GritReranker())
    wanted = GritReranker(model=fresh).compress_documents(given, QUESTION)
    found = retriever.invoke(QUESTION)
    assert texts(found) == texts(wanted)[:2]
    assert scores(found) == pytest.approx(scores(wanted)[:2], abs=1e-5)
    assert texts(retriever.invoke(QUESTION, k=1)) == texts(wanted)[:1]
    assert texts(await retriever.ainvoke(QUESTION)) == texts(found)


async def test_fetch_k_is_what_the_reranker_sees(fresh: GritLM) -> None:
    given = [Document(f"Number {n} of many.") for n in range(25)]
    store = InMemoryVectorStore(GritEmbeddings(model=fresh))
    store.add_documents(given)

    async def seen(k: int = 3, **options: Any) -> int:
        reranker = Backwards(seen=[])
        retriever = GritRetriever(reranker=reranker, **options)
        assert len(retriever.invoke(QUESTION, k=k)) == len(await retriever.ainvoke(QUESTION, k=k)) == k
        assert reranker.seen[0] == reranker.seen[1]
        return reranker.seen[0]

    model = {"model": fresh, "retriever": Fixed(found=given)}
    assert await seen(vectorstore=store) == 20
    assert await seen(vectorstore=store, fetch_k=5) == 5
    assert await seen(vectorstore=store, fetch_k=5, k=7) == 7
    assert await seen(**model) == 25
    assert await seen(fetch_k=5, **model) == 5


async def test_any_compressor_serves(fresh: GritLM) -> None:
    given = documents("other compressor")
    retriever = GritRetriever(retriever=Fixed(found=given), model=fresh, reranker=Backwards(seen=[]), k=2)
    assert retriever.invoke(QUESTION) == await retriever.ainvoke(QUESTION) == given[:0:-1]
    empty = Backwards(seen=[])
    assert GritRetriever(retriever=Fixed(found=[]), model=fresh, reranker=empty).invoke(QUESTION) == []
    assert empty.seen == []


def test_the_reranker_takes_the_retrievers_model_unless_it_names_one(fresh: GritLM, other: GritLM) -> None:
    store = InMemoryVectorStore(GritEmbeddings(model=fresh))
    given = GritReranker()
    assert GritRetriever(vectorstore=store, reranker=given).reranker.grit is fresh
    assert given.model == "grit-mini"
    assert GritRetriever(vectorstore=store, reranker=GritReranker(model=other)).reranker.grit is other
    named = GritRetriever(retriever=Fixed(found=[]), model=fresh.source, reranker=GritReranker(method="listwise"))
    assert named.reranker.grit is named.grit
    assert named.reranker.method == "listwise"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"fetch_k": 5}, "fetch_k=5 has no effect without a reranker"),
        ({"fetch_k": 0, "reranker": GritReranker()}, "fetch_k=0 is not possible"),
    ],
)
def test_impossible_retrievers_are_refused_at_once(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        GritRetriever(retriever=Fixed(found=[]), **options)


async def test_the_model_expects_what_comes_back_in_its_order(fresh: GritLM, monkeypatch: Any) -> None:
    remembered: list[list[str]] = []
    monkeypatch.setattr(GritLM, "remember_documents", lambda _, known: remembered.append(list(known)))
    retriever = GritRetriever.from_documents(documents("expected"), model=fresh, k=2, reranker=GritReranker())
    found = texts(retriever.invoke(QUESTION))
    await retriever.ainvoke(QUESTION)
    assert remembered == [found, found]


# With the KV cache


@pytest.mark.parametrize(("caching", "order"), [("prefix", "passage-first"), ("doc", "passage-block")])
def test_an_answer_starts_from_what_reranking_read(fresh: GritLM, caching: Any, order: Any) -> None:
    grit = renewed(fresh, caching)
    chat = ChatGrit(model=grit, max_tokens=4)
    given = documents(f"blocks of {caching}")
    best = GritReranker(model=grit, order=order, top_n=1).compress_documents(given, QUESTION)
    assert cache_read(chat.invoke(QUESTION, documents=best)) > 50
    assert cache_read(ChatGrit(model=renewed(fresh, caching), max_tokens=4).invoke(QUESTION, documents=best)) == 0


def test_retrieve_rerank_answer_with_one_model(fresh: GritLM) -> None:
    grit = renewed(fresh, "doc")
    reranker = GritReranker(order="passage-block")
    retriever = GritRetriever.from_documents(documents("pipeline"), model=grit, k=1, reranker=reranker)
    found = retriever.invoke(QUESTION)
    answer = ChatGrit(model=grit, max_tokens=4).invoke(QUESTION, documents=found)
    assert cache_read(answer) > 50
