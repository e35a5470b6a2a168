"""Quotes of a generation as LlamaIndex shows them: citations of a message, and places in the nodes of a response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from llama_index.core.base.llms.types import CitationBlock, TextBlock

from grit_integrations.llama_index.documents import NodeText
from grit_integrations.results import Quote


def as_citations(quotes: Sequence[Mapping[str, Any]]) -> list[CitationBlock]:
    """Return a citation for each quote, by the place of its document among those given."""
    return [_citation(quote) for quote in quotes]


def quotes_metadata(quotes: Sequence[Quote]) -> dict[str, Any]:
    """Return quotes as plain data; nothing without any."""
    return {"quotes": [asdict(quote) for quote in quotes]} if quotes else {}


@dataclass(slots=True)
class QuotedNodes:
    """The nodes of one synthesis, and what its answer quotes of them once it is there."""

    nodes: Sequence[NodeText]
    quotes: list[dict[str, Any]] = field(default_factory=list)

    def note(self, quotes: Sequence[Mapping[str, Any]], given: Sequence[int]) -> None:
        """Take the quotes of an answer; `given` are the places of its documents among the nodes."""
        self.quotes += [_of_node(quote, self.nodes[given[quote["document"]]]) for quote in quotes]


def _of_node(quote: Mapping[str, Any], node: NodeText) -> dict[str, Any]:
    place = {"start": quote["start"] + node.offset, "end": quote["end"] + node.offset}
    within = quote["within"] and [at + node.offset for at in quote["within"]]
    return {"node_id": node.node_id, "text": quote["text"], **place, "score": quote["score"], "within": within}


def _citation(quote: Mapping[str, Any]) -> CitationBlock:
    name = f"document {quote['document']}"
    place = {key: quote[key] for key in ("document", "start", "end")}
    return CitationBlock(
        cited_content=TextBlock(text=quote["text"]), source=name, title=name, additional_location_info=place
    )
