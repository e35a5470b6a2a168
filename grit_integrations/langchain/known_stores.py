"""What is known of LangChain's in-memory store and of Chroma, and of no other: scores, replacing, sizes of batches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from grit_integrations.errors import OptionError

_IN_MEMORY_OPTIONS = ("filter",)


def cosine_of_score(store: VectorStore, *, unit: bool) -> Callable[[float], float] | None:
    """Return how a store's own score becomes the cosine of query and document, if that is known for certain.

    Args:
        store: any vector store.
        unit: whether its vectors are known to be of unit length.
    """
    if _has_method(store, InMemoryVectorStore, "similarity_search_with_score"):
        return float
    if not _has_method(store, _chroma(), "similarity_search_with_score"):
        return None
    return _cosine_of_distance(_space(store), unit=unit)


def replaces(store: VectorStore) -> bool:
    """Return whether a store is known to replace documents whose ids it is given again."""
    return _has_method(store, InMemoryVectorStore, "add_documents") or (
        _has_method(store, _chroma(), "add_documents") and _has_method(store, _chroma(), "add_texts")
    )


def check_search_options(store: VectorStore, options: Iterable[str]) -> None:
    """Refuse options of a search that a store is known to pass over in silence.

    Raises:
        OptionError: an option that changes nothing.
    """
    if not _has_method(store, InMemoryVectorStore, "similarity_search_with_score"):
        return
    for name in options:
        if name not in _IN_MEMORY_OPTIONS:
            raise OptionError.unknown(name, [*_IN_MEMORY_OPTIONS, "k", "score_threshold"])


def largest_batch(store: VectorStore) -> int | None:
    """Return how many documents a store takes at once, if it says so."""
    said = getattr(getattr(store, "_client", None), "get_max_batch_size", None)  # Chroma's, which knows its sqlite
    return int(said()) if callable(said) else None


def _chroma() -> type[Any] | None:
    """Return LangChain's Chroma, if anybody in this process has imported it."""
    return getattr(sys.modules.get("langchain_chroma"), "Chroma", None)


def _has_method(store: VectorStore, kind: type[Any] | None, name: str) -> bool:
    """Return whether a store does something as `kind` does it; a subclass may do it differently."""
    return kind is not None and getattr(type(store), name) is getattr(kind, name)


def _space(chroma: Any) -> str | None:
    configuration = chroma._collection.configuration
    kinds = [configuration.get(kind) or {} for kind in ("hnsw", "spann")]
    return next((kind["space"] for kind in kinds if kind.get("space")), None)


def _cosine_of_distance(space: str | None, *, unit: bool) -> Callable[[float], float] | None:
    if space == "cosine" or (space == "ip" and unit):
        return lambda distance: 1 - distance
    return (lambda distance: 1 - distance / 2) if space == "l2" and unit else None  # Chroma's distance is squared
