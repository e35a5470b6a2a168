"""Documents into any vector store: what is there already is replaced, and they go in parts, each of which stays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from grit_integrations.errors import OptionError
from grit_integrations.langchain.known_stores import largest_batch, replaces

PART = 1_000  # documents that go to a store at once: a failure costs no more than the work on these


def parts_of(store: VectorStore, documents: Mapping[str, Document]) -> Iterator[tuple[int, dict[str, Document]]]:
    """Yield documents by id, as many at once as the store takes, each time with how many came before."""
    size, waiting, done = min(PART, largest_batch(store) or PART), iter(documents.items()), 0
    while part := dict(islice(waiting, size)):
        yield done, part
        done += len(part)


def add(store: VectorStore, part: Mapping[str, Document]) -> None:
    """Store one part, in place of what has its ids.

    Raises:
        OptionError: a store that has some of the ids and cannot delete.
    """
    if not replaces(store) and (old := _shared(part, _found(store, list(part)))):
        _check_deletes(store, old, type(store).delete is VectorStore.delete)
        store.delete(old)
    store.add_documents(list(part.values()), ids=list(part))


async def aadd(store: VectorStore, part: Mapping[str, Document]) -> None:
    """Store one part by the store's own async methods; otherwise like `add`."""
    if not replaces(store) and (old := _shared(part, await _afound(store, list(part)))):
        kind = type(store)
        _check_deletes(store, old, kind.delete is VectorStore.delete and kind.adelete is VectorStore.adelete)
        await store.adelete(old)
    await store.aadd_documents(list(part.values()), ids=list(part))


@contextmanager
def telling_what_is_stored(done: int, total: int) -> Iterator[None]:
    """Add to an error how many documents were stored before it."""
    try:
        yield
    except Exception as error:
        error.add_note(f"{done} of {total} documents are stored. Adding all of them again replaces these.")
        raise


def _found(store: VectorStore, ids: list[str]) -> list[Document]:
    """Return the documents that have these ids; none of a store that cannot be asked."""
    try:
        return store.get_by_ids(ids)
    except NotImplementedError:
        return []


async def _afound(store: VectorStore, ids: list[str]) -> list[Document]:
    try:
        return await store.aget_by_ids(ids)
    except NotImplementedError:
        return []


def _shared(part: Mapping[str, Document], found: Sequence[Document]) -> list[str]:
    return [document.id for document in found if document.id is not None and document.id in part]


def _check_deletes(store: VectorStore, ids: Sequence[str], cannot: bool) -> None:
    if cannot:
        raise OptionError(
            f"The {type(store).__name__} has {len(ids)} of these ids already, such as {ids[0]!r}, and can neither "
            "replace nor delete. Add documents with other ids."
        )
