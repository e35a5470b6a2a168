"""The score of a document that was found. It belongs to a query: it has no part in whether two documents are equal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.documents import Document

SCORE = "relevance_score"  # where chains and tracers look for it


class ScoredMetadata(dict[str, Any]):
    """A document's metadata with its score.

    Retrievers that ask several queries drop repeated documents by comparing them whole. What two queries found is one
    document, so the score is left out of the comparison.

    Example:
        >>> ScoredMetadata(page=1, relevance_score=0.7) == {"page": 1, "relevance_score": 0.5}
        True
        >>> ScoredMetadata(page=1, relevance_score=0.7) == {"page": 2, "relevance_score": 0.7}
        False
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and _unscored(self) == _unscored(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None


def scored(document: Document, score: float | None = None, *, metadata: Mapping[str, Any] | None = None) -> Document:
    """Return a copy of a document whose metadata is its own, with the score as a plain number.

    Args:
        document: stays as it is.
        score: a new score; `None` keeps what is there.
        metadata: what the copy gets in place of the document's.
    """
    own = ScoredMetadata(document.metadata if metadata is None else metadata)
    if score is not None:
        own[SCORE] = float(score)
    return document.model_copy(update={"metadata": own})


def score_of(document: Document) -> float | None:
    """Return a document's score, if it has one."""
    score = document.metadata.get(SCORE)
    return float(score) if isinstance(score, int | float) else None


def _unscored(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metadata.items() if name != SCORE}
