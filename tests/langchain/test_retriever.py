"""GritRetriever: what it returns, what it adds, what it leaves ready for the chat model, and what cannot break it."""

from __future__ import annotations

import asyncio
import copy
import threading
from pathlib import Path
from typing import Any

import pytest
from langchain_chroma import Chroma
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langchain_helpers import cache_read, documents, renewed

from grit_integrations import DocBlocks, EmptyTextError, GritLM, ModelLoadError, OptionError, PromptError
from grit_integrations.langchain import ChatGrit, GritEmbeddings, GritRetriever
from grit_integrations.options import Caching

QUESTION = "What pumps blood?"
TOO_LONG = "word " * 5000


def retriever_of(grit: GritLM, test: str, **options: Any) -> GritRetriever:
    return GritRetriever.from_documents(documents(test), model=grit, **options)


def texts(found: list[Document]) -> list[str]:
    return [document.page_content for document in found]


class Fixed(BaseRetriever):
    """Returns what it was given, as some other retriever would."""

    found: list[Document]

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return self.found


class Scoreless(VectorStore):
    """The least that a vector store can do."""

    def __init__(self, found: list[Document]) -> None:
        self.found = found

    @classmethod
    def from_texts(cls, *_: Any, **__: Any) -> Scoreless:
        raise NotImplementedError

    def similarity_search(self, query: str, k: int = 4, **_: Any) -> list[Document]:
        return self.found[:k]


# What comes back


def test_the_stores_own_order_with_plain_scores(fresh: GritLM) -> None:
    retriever = retriever_of(fresh, "order")
    found = retriever.invoke(QUESTION)
    wanted = retriever.vectorstore.similarity_search_with_score(QUESTION, k=4)
    assert texts(found) == [document.page_content for document, _ in wanted]
    assert [document.metadata["relevance_score"] for document in found] == [score for _, score in wanted]
    assert all(type(document.metadata["relevance_score"]) is float for document in found)
    assert {document.metadata["source"] for document in found} == {d.metadata["source"] for d in documents("order")}
    assert [document.id for document in found] == [document.id for document, _ in wanted]


async def test_a_store_without_scores_serves_too(fresh: GritLM) -> None:
    given = documents("scoreless")
    retriever = GritRetriever(vectorstore=Scoreless(given), model=fresh, k=2, prefer_cached=1)
    assert retriever.invoke(QUESTION) == await retriever.ainvoke(QUESTION) == given[:2]


async def test_k_of_the_call_wins(fresh: GritLM) -> None:
    retriever = retriever_of(fresh, "k", k=1)
    assert (len(retriever.invoke(QUESTION)), len(retriever.invoke(QUESTION, k=3))) == (1, 3)
    assert (len(await retriever.ainvoke(QUESTION)), len(await retriever.ainvoke(QUESTION, k=2))) == (1, 2)
    assert len(retriever.bind(k=2).invoke(QUESTION)) == 2
    with pytest.raises(OptionError, match="k=0 is not possible"):
        retriever.invoke(QUESTION, k=0)


def test_search_arguments_of_instance_and_call_reach_the_store(fresh: GritLM) -> None:
    def only(word: str) -> dict[str, Any]:
        return {"filter": lambda document: word in document.page_content}

    retriever = retriever_of(fresh, "filters", search_kwargs=only("stars"))
    assert [document.metadata["source"] for document in retriever.invoke(QUESTION)] == ["stars burn hydrogen"]
    found = retriever.invoke(QUESTION, **only("bread"))
    assert [document.metadata["source"] for document in found] == ["bread rises by yeast"]


def test_what_it_returns_is_the_callers_to_change(fresh: GritLM) -> None:
    retriever = retriever_of(fresh, "copies")
    before = copy.deepcopy(retriever.vectorstore.store)
    for document in retriever.invoke(QUESTION):
        document.metadata["changed"] = True
    assert retriever.vectorstore.store == before
    given = documents("copies")
    wrapping = GritRetriever(retriever=Fixed(found=given), model=fresh)
    for document in wrapping.invoke(QUESTION):
        document.metadata["changed"] = True
    assert given == documents("copies")


async def test_async_equals_sync(fresh: GritLM) -> None:
    for options in ({}, {"prefer_cached": 2.0}):
        retriever = retriever_of(fresh, "async", **options)
        found = retriever.invoke(QUESTION)
        assert texts(await retriever.ainvoke(QUESTION)) == texts(found)
        assert (await asyncio.gather(retriever.ainvoke(QUESTION), retriever.ainvoke(QUESTION)))[1] == found


async def test_async_uses_the_stores_own_methods_and_keeps_torch_off_the_loop(fresh: GritLM, monkeypatch: Any) -> None:
    retriever, threads = retriever_of(fresh, "threads"), []
    monkeypatch.setattr(GritLM, "remember_documents", lambda *_: threads.append(threading.current_thread()))
    monkeypatch.setattr(GritEmbeddings, "embed_query", None)
    monkeypatch.setattr(GritEmbeddings, "embed_documents", None)
    await retriever.aadd_documents(documents("more threads"))
    assert len(await retriever.ainvoke(QUESTION, k=6)) == 6
    assert threads and threading.main_thread() not in threads


def test_it_wraps_any_retriever(fresh: GritLM) -> None:
    given = [document.model_copy(update={"metadata": {"relevance_score": 0.5}}) for document in documents("wraps")]
    retriever = GritRetriever(retriever=Fixed(found=given), model=fresh, k=2)
    assert retriever.invoke(QUESTION) == given[:2]
    assert retriever.grit is fresh
    with pytest.raises(OptionError, match="nowhere to add to"):
        retriever.add_documents(given)


def test_callbacks_see_the_wrapped_retriever_as_a_child(fresh: GritLM) -> None:
    retriever = GritRetriever(retriever=Fixed(found=documents("child")), model=fresh)
    names = [event["name"] for event in _events(retriever) if event["event"] == "on_retriever_start"]
    assert names == ["GritRetriever", "Fixed"]


def _events(retriever: GritRetriever) -> list[Any]:
    async def read() -> list[Any]:
        return [event async for event in retriever.astream_events(QUESTION, version="v2")]

    return asyncio.run(read())


class Last(BaseDocumentCompressor):
    """Keeps the last two documents."""

    def compress_documents(self, documents: Any, query: str, callbacks: Any = None) -> list[Document]:
        return list(documents)[-2:]


def test_it_nests_in_compressing_retrievers_both_ways(fresh: GritLM) -> None:
    retrievers = pytest.importorskip("langchain_classic.retrievers")
    inner = retriever_of(fresh, "nesting")
    outer = retrievers.ContextualCompressionRetriever(base_compressor=Last(), base_retriever=inner)
    assert outer.invoke(QUESTION) == inner.invoke(QUESTION)[1:]
    assert GritRetriever(retriever=outer, model=fresh, k=1).invoke(QUESTION) == inner.invoke(QUESTION)[1:2]


# Options


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "Neither of vectorstore and retriever"),
        ({"vectorstore": Scoreless([]), "retriever": Fixed(found=[])}, "Both of vectorstore and retriever"),
        ({"vectorstore": Scoreless([]), "k": 0}, "k=0 is not possible"),
        ({"vectorstore": Scoreless([]), "prefer_cached": -1}, "prefer_cached=-1.0 is not possible"),
        ({"vectorstore": Scoreless([]), "search_kwargs": {"k": 3}}, "search_kwargs has a k"),
        ({"vectorstore": Scoreless([]), "search_kwargs": {"reranker": None}}, "reranker is no option of a search"),
        ({"vectorstore": Scoreless([]), "prefer_cache": 1}, "prefer_cache"),
    ],
)
def test_impossible_options_are_refused_at_once(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        GritRetriever(**options)


def test_the_model_is_the_stores_unless_another_is_named(fresh: GritLM, other: GritLM) -> None:
    store = InMemoryVectorStore(GritEmbeddings(model=fresh))
    assert GritRetriever(vectorstore=store).grit is fresh
    assert GritRetriever(vectorstore=store, model=other).grit is other
    by_name = GritRetriever.from_documents([], model=fresh.source)
    assert by_name.grit is by_name.vectorstore.embeddings.grit
    assert not by_name.grit.is_loaded


# Adding


@pytest.mark.parametrize("asynchronous", [False, True])
def test_adding_again_adds_nothing_even_after_reopening(fresh: GritLM, tmp_path: Path, asynchronous: bool) -> None:
    def add(retriever: GritRetriever, given: list[Document]) -> list[str]:
        return asyncio.run(retriever.aadd_documents(given)) if asynchronous else retriever.add_documents(given)

    def opened() -> tuple[Chroma, GritRetriever]:
        store = Chroma("again", GritEmbeddings(model=fresh), persist_directory=str(tmp_path))
        return store, GritRetriever(vectorstore=store)

    given = documents("again")
    store, retriever = opened()
    ids = add(retriever, [*given, given[0]])
    assert len(ids) == 4 and ids[0] == ids[3] and len(set(ids)) == 3
    assert add(retriever, given) == ids[:3]
    store, retriever = opened()
    assert add(retriever, given) == ids[:3]
    assert len(store.get()["ids"]) == 3
    changed = given[0].model_copy(update={"metadata": {"source": "elsewhere"}})
    assert add(retriever, [changed]) != ids[:1]
    assert len(store.get()["ids"]) == 4


def test_given_ids_are_kept_and_replace_what_they_name(fresh: GritLM) -> None:
    retriever, given = GritRetriever.from_documents([], model=fresh), documents("ids")
    assert retriever.add_documents(given[:2], ids=["a", "b"]) == ["a", "b"]
    assert retriever.add_documents([given[2]], ids=["a"]) == ["a"]
    assert retriever.add_documents([given[0].model_copy(update={"id": "own"})]) == ["own"]
    assert set(retriever.vectorstore.store) == {"a", "b", "own"}
    assert retriever.vectorstore.get_by_ids(["a"])[0].page_content == given[2].page_content
    with pytest.raises(OptionError, match="1 ids were given for 3 documents"):
        retriever.add_documents(given, ids=["a"])
    for single in ({"documents": given[0]}, {"documents": given[:2], "ids": "ab"}):
        with pytest.raises(OptionError, match="Give a list"):
            retriever.add_documents(**single)


async def test_documents_that_can_be_read_only_once_are_read(fresh: GritLM) -> None:
    given, retriever = documents("once"), GritRetriever.from_documents([], model=fresh)
    assert retriever.add_documents((each for each in given[:2]), ids=map(str, range(2))) == ["0", "1"]
    assert len(await retriever.aadd_documents(each for each in given[2:])) == 1
    assert len(retriever.vectorstore.store) == 3
    assert len(GritRetriever.from_documents(iter(given), model=fresh).vectorstore.store) == 3


async def test_adding_nothing_does_nothing(fresh: GritLM) -> None:
    retriever = GritRetriever.from_documents([], model="no-such/model")
    assert retriever.add_documents([]) == await retriever.aadd_documents([]) == []
    assert GritRetriever.from_documents([], model=fresh).invoke(QUESTION) == []


def test_a_blank_document_is_refused_before_anything_is_stored(fresh: GritLM) -> None:
    for embeddings in (GritEmbeddings(model=fresh), DeterministicFakeEmbedding(size=8)):
        store = InMemoryVectorStore(embeddings)
        retriever = GritRetriever(vectorstore=store, model=fresh)
        for blank, error in ((" ", EmptyTextError), ("a\0b", PromptError)):
            with pytest.raises(error, match="Document 1"):
                retriever.add_documents([documents("blank")[0], Document(blank)])
        assert store.store == {}


@pytest.mark.parametrize("caching", ["prefix", "doc", "query-doc", "doc-query"])
@pytest.mark.parametrize("own", [True, False])
def test_what_was_added_is_not_read_again(tiny: GritLM, caching: Caching, own: bool) -> None:
    grit, given = renewed(tiny, caching), documents(f"added {caching} {own}")
    store = InMemoryVectorStore(GritEmbeddings(model=grit) if own else DeterministicFakeEmbedding(size=8))
    retriever = GritRetriever(vectorstore=store, model=grit)
    retriever.add_documents(given)
    assert grit.stored(texts(given)) == [True] * 3
    answer = ChatGrit(model=grit, max_tokens=4).invoke(QUESTION, documents=given[:1])
    assert cache_read(answer) > 150
    wanted = ChatGrit(model=renewed(tiny, caching), max_tokens=4).invoke(QUESTION, documents=given[:1])
    assert answer.text == wanted.text


def test_causal_blocks_are_kept_when_documents_are_added(tiny: GritLM) -> None:
    grit, given = renewed(tiny, "doc").with_options(doc_blocks=DocBlocks(pattern="causal")), documents("causal")
    GritRetriever.from_documents(given, vectorstore=InMemoryVectorStore(GritEmbeddings(model=grit)))
    assert grit.stored(texts(given)) == [True] * 3


def test_one_pass_embeds_and_keeps(tiny: GritLM, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    true_cache = GritLM.cache_documents

    def noting(self: GritLM, given: list[str], **options: Any) -> Any:
        calls.append(given)
        return true_cache(self, given, **options)

    monkeypatch.setattr(GritLM, "cache_documents", noting)
    for caching, instruction, read in (
        ("doc", "", 0),
        ("doc", "Represent this", 1),
        ("prefix", "", 1),
        ("off", "", 0),
        ("query", "", 0),
    ):
        calls.clear()
        grit = renewed(tiny, caching)  # type: ignore[arg-type]
        embeddings = GritEmbeddings(model=grit, document_instruction=instruction)
        GritRetriever.from_documents(documents("one pass"), vectorstore=InMemoryVectorStore(embeddings))
        assert len(calls) == read


# The KV cache


def test_what_it_returns_is_found_in_any_prompt(fresh: GritLM) -> None:
    retriever, chat = retriever_of(fresh, "any prompt", k=1), ChatGrit(model=fresh, max_tokens=4)
    [document] = retriever.invoke(QUESTION)
    chat.invoke(f"<context>\n{document.page_content}\n</context>\n{QUESTION}")
    assert cache_read(chat.invoke(f"<context>\n{document.page_content}\n</context>\nSay it in a word.")) > 150


def test_stored_documents_come_first_among_equals_only(tiny: GritLM) -> None:
    given = documents("equals")
    scores = [0.9, 0.88, 0.5]
    found = [
        document.model_copy(update={"metadata": {"relevance_score": score}})
        for document, score in zip(given, scores, strict=True)
    ]
    grit = renewed(tiny)
    grit.cache_documents([given[1].page_content, given[2].page_content])

    def order(**options: Any) -> list[int]:
        retriever = GritRetriever(retriever=Fixed(found=found), model=grit, **options)
        return [texts(found).index(text) for text in texts(retriever.invoke(QUESTION))]

    assert order() == order(prefer_cached=0.01) == [0, 1, 2]
    assert order(prefer_cached=0.03) == [1, 0, 2]
    assert order(prefer_cached=0.5) == [1, 2, 0]
    grit.cache_documents([given[0].page_content])
    assert order(prefer_cached=0.5) == [0, 1, 2]


async def test_unusable_documents_do_not_break_retrieval(fresh: GritLM) -> None:
    found = [Document(TOO_LONG, metadata={"relevance_score": 1}), *documents("unusable"), Document(" "), Document("\0")]
    retriever = GritRetriever(retriever=Fixed(found=found), model=fresh, k=9, prefer_cached=2)
    assert texts(retriever.invoke(QUESTION)) == texts(found)
    assert texts(await retriever.ainvoke(QUESTION)) == texts(found)
    store = InMemoryVectorStore(GritEmbeddings(model=fresh, truncate=True))
    retriever = GritRetriever.from_documents([Document(TOO_LONG), *documents("unusable")], vectorstore=store)
    assert len(retriever.invoke(QUESTION)) == 4
    assert fresh.stored([documents("unusable")[2].page_content]) == [True]


def test_a_model_that_cannot_be_loaded_does_not_break_retrieval() -> None:
    given = documents("no model")
    retriever = GritRetriever(retriever=Fixed(found=given), model="no-such/model", local_files_only=True)
    assert retriever.invoke(QUESTION) == given
    with pytest.raises(ModelLoadError):
        retriever.grit.load()
