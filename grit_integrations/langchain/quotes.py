"""Quotes of a generation as LangChain shows them: citations, the standard annotations of a text block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from langchain_core.messages.content import Citation

from grit_integrations.langchain.documents import DocumentText
from grit_integrations.results import Quote


def as_citations(quotes: Sequence[Quote], documents: Sequence[DocumentText]) -> list[Citation]:
    """Return a citation for each quote; an answer is one quote, so each covers the whole text.

    `start_index` and `end_index` count in the answer. Where the quote stands in its document is in `extras`, with the
    document's place among those given, its `id` and its `source`.

    >>> said = {"source": "https://example.org/heart", "title": "Heart"}
    >>> heart = DocumentText("The heart pumps blood.", 0, "h1", said)
    >>> (citation,) = as_citations([Quote("blood", 0, 16, 21, -0.5)], [heart])
    >>> citation["cited_text"], citation["title"], citation["url"], citation["extras"]["start"]
    ('blood', 'Heart', 'https://example.org/heart', 16)
    """
    return [_citation(quote, documents[quote.document]) for quote in quotes]


def quotes_metadata(quotes: Sequence[Quote], documents: Sequence[DocumentText]) -> dict[str, Any]:
    """Return quotes as plain data, numbered as the caller's documents are; nothing without any."""
    given = [replace(quote, document=documents[quote.document].index) for quote in quotes]
    return {"quotes": [asdict(quote) for quote in given]} if given else {}


def described(documents: Sequence[DocumentText]) -> list[dict[str, Any]]:
    """Return what citations say of documents: two calls that differ in it have different answers."""
    return [_known(document) for document in documents]


def _citation(quote: Quote, document: DocumentText) -> Citation:
    known = _known(document)
    citation = Citation(type="citation", start_index=0, end_index=len(quote.text), cited_text=quote.text)
    if "title" in known:
        citation["title"] = known.pop("title")
    if "url" in known:
        citation["url"] = known.pop("url")
    picked = {} if quote.within is None else {"within": list(quote.within)}
    citation["extras"] = {**known, "start": quote.start, "end": quote.end, "score": quote.score, **picked}
    return citation


def _known(document: DocumentText) -> dict[str, Any]:
    """Return what a document says of itself, as far as it is text."""
    metadata: Mapping[str, Any] = document.metadata
    source = metadata.get("source")
    url = metadata.get("url", source if isinstance(source, str) and "://" in source else None)
    said = {"id": document.id, "source": source, "title": metadata.get("title"), "url": url}
    return {"document": document.index, **{name: value for name, value in said.items() if isinstance(value, str)}}
