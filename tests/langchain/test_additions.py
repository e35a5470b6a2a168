"""Adding documents to any store: again, many at once, and where something goes wrong on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import chromadb
import pytest
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langchain_helpers import documents

from grit_integrations import ContextOverflowError, GritLM, OptionError
from grit_integrations.langchain import GritEmbeddings, GritRetriever, additions

QUESTION = "What pumps blood?"


class OnceOnly(InMemoryVectorStore):
    """Takes each id once, and deletes only what it has, as FAISS does."""

    def add_documents(self, documents: list[Document], ids: list[str] | None = None, **options: Any) -> list[str]:
        known = set(ids or ()) & set(self.store)
        if known:
            raise ValueError(f"Tried to add ids that already exist: {known}")
        return super().add_documents(documents, ids=ids, **options)

    async def aadd_documents(self, documents: list[Document], ids: Any = None, **options: Any) -> list[str]:
        return self.add_documents(documents, ids=ids, **options)

    def delete(self, ids: Sequence[str] | None = None, **options: Any) -> None:
        if set(ids or ()) - set(self.store):
            raise ValueError("Some specified ids do not exist.")
        super().delete(ids, **options)


class Undeletable(OnceOnly):
    delete = VectorStore.delete  # type: ignore[assignment]
    adelete = VectorStore.adelete  # type: ignore[assignment]


class Small(InMemoryVectorStore):
    """Breaks when it is given more than fits, and notes what it was given."""

    def __init__(self, embedding: Any, room: int) -> None:
        super().__init__(embedding)
        self.room, self.parts = room, list[int]()

    def add_documents(self, documents: list[Document], ids: list[str] | None = None, **options: Any) -> list[str]:
        self.parts.append(len(documents))
        if len(self.store) + len(documents) > self.room:
            raise OSError("no space left on device")
        return super().add_documents(documents, ids=ids, **options)


def add(retriever: GritRetriever, given: list[Document], asynchronous: bool, **options: Any) -> list[str]:
    if asynchronous:
        return asyncio.run(retriever.aadd_documents(given, **options))
    return retriever.add_documents(given, **options)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_adding_again_replaces_in_stores_that_take_an_id_once(fresh: GritLM, asynchronous: bool) -> None:
    heart, stars, bread = documents("once only")
    retriever = GritRetriever(vectorstore=OnceOnly(GritEmbeddings(model=fresh)), k=9)
    add(retriever, [heart], asynchronous)
    add(retriever, [heart, stars], asynchronous)
    add(retriever, [bread], asynchronous, ids=[retriever.invoke(QUESTION)[0].id])
    texts = [document.page_content for document in retriever.invoke(QUESTION)]
    assert len(texts) == 2 and bread.page_content in texts


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_store_that_cannot_replace_is_refused_before_anything_is_stored(fresh: GritLM, asynchronous: bool) -> None:
    given = documents("cannot replace")
    store = Undeletable(GritEmbeddings(model=fresh))
    add(GritRetriever(vectorstore=store), given[:1], asynchronous)
    with pytest.raises(OptionError, match=r"Undeletable has 1 of these ids already.*neither replace nor delete"):
        add(GritRetriever(vectorstore=store), given, asynchronous)
    assert len(store.store) == 1


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_cannot_be_embedded_deletes_and_stores_nothing(
    fresh: GritLM, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(additions, "PART", 1)
    given = documents("too long")
    retriever = GritRetriever(vectorstore=OnceOnly(GritEmbeddings(model=fresh)))
    add(retriever, given[:1], asynchronous)
    before = dict(retriever.vectorstore.store)
    with pytest.raises(ContextOverflowError, match="Document 3"):
        add(retriever, [*given, Document("word " * 5000)], asynchronous)
    assert retriever.vectorstore.store == before


@pytest.mark.parametrize("asynchronous", [False, True])
def test_parts_that_were_stored_stay_and_the_error_says_how_many(
    fresh: GritLM, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(additions, "PART", 4)
    given = [Document(f"Number {n} of many.") for n in range(10)]
    store = Small(GritEmbeddings(model=fresh), room=9)
    monkeypatch.setattr(Small, "aadd_documents", VectorStore.aadd_documents)
    with pytest.raises(OSError, match="no space left") as caught:
        add(GritRetriever(vectorstore=store), given, asynchronous)
    assert caught.value.__notes__ == ["8 of 10 documents are stored. Adding all of them again replaces these."]
    assert (store.parts, len(store.store)) == ([4, 4, 2], 8)
    assert fresh.stored([given[7].page_content, given[8].page_content]) == [True, False]
    store.room = 10
    assert len(add(GritRetriever(vectorstore=store), given, asynchronous)) == len(store.store) == 10


def test_a_stores_own_limit_is_kept(fresh: GritLM, monkeypatch: pytest.MonkeyPatch) -> None:
    client = chromadb.EphemeralClient()
    monkeypatch.setattr(type(client), "get_max_batch_size", lambda _: 3)
    store, parts = Chroma("limit", GritEmbeddings(model=fresh), client=client), list[int]()
    true_upsert = store._collection.upsert
    monkeypatch.setattr(
        store._collection, "upsert", lambda **given: (parts.append(len(given["ids"])), true_upsert(**given))[1]
    )
    GritRetriever(vectorstore=store).add_documents([Document(f"Number {n}.", metadata={"n": n}) for n in range(7)])
    assert (parts, store._collection.count()) == ([3, 3, 1], 7)


def test_a_documents_id_does_not_hang_on_the_query_that_found_it(fresh: GritLM) -> None:
    retriever = GritRetriever.from_documents(documents("ids"), model=fresh)
    again = [document.model_copy(update={"id": None}) for document in retriever.invoke(QUESTION)]
    retriever.add_documents(again)
    assert len(retriever.vectorstore.store) == 3
