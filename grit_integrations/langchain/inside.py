"""The GritLM inside a vector store, a retriever or wrapped embeddings: the model that made its vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeGuard

from langchain_core.documents import BaseDocumentCompressor
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore

from grit_integrations.errors import OptionError
from grit_integrations.langchain.source import ModelSource
from grit_integrations.model import GritLM

if TYPE_CHECKING:
    from grit_integrations.langchain.embeddings import GritEmbeddings

_PARTS = (Embeddings, VectorStore, BaseRetriever, BaseDocumentCompressor)
_MOST = 100  # of a longer list, such as a retriever's documents, none is a part of it


def embeddings_inside(whole: object) -> GritEmbeddings | None:
    """Return the first `GritEmbeddings` in `whole`, however deep: as in LangChain's `CacheBackedEmbeddings`."""
    return next((part for part in _parts(whole) if _is_grit_embeddings(part)), None)


def model_inside(whole: object) -> GritLM | None:
    """Return the model of the embeddings in `whole`, or else the one that its other adapters name.

    Raises:
        OptionError: several models.
    """
    parts = [part for part in _parts(whole) if isinstance(part, ModelSource)]
    embeddings = [part for part in parts if _is_grit_embeddings(part)]
    named = [part for part in parts if "model" in part.model_fields_set]
    models = [part.grit for part in embeddings or named]
    if len({(grit.source, grit.revision, grit.load_options.key()) for grit in models}) > 1:
        names = ", ".join(sorted({grit.name for grit in models}))
        raise OptionError(f"The {type(whole).__name__} holds several models: {names}. Say which one with model=.")
    return models[0] if models else None


def _parts(whole: object) -> Iterator[Any]:
    """Yield `whole` and what it is made of, the outer before the inner, each once."""
    waiting, seen = [whole], set[int]()
    while waiting:
        part = waiting.pop(0)
        if id(part) in seen or not _is_part(part):
            continue
        seen.add(id(part))
        yield part
        for value in _values(part):
            waiting.extend(value if isinstance(value, list | tuple) and len(value) <= _MOST else [value])


def _is_grit_embeddings(part: object) -> TypeGuard[GritEmbeddings]:
    return isinstance(part, ModelSource) and isinstance(part, Embeddings)


def _is_part(value: object) -> bool:
    return isinstance(value, _PARTS) or hasattr(type(value), "embed_query")


def _values(part: object) -> list[object]:
    private = getattr(part, "__pydantic_private__", None) or {}
    own = [part.embeddings] if isinstance(part, VectorStore) else []
    return [*own, *getattr(part, "__dict__", {}).values(), *private.values()]
