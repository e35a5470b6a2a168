"""Quotes of nodes: which part of what the model reads is the node's own text, and where a quote stands in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llama_index.core.schema import MetadataMode, NodeWithScore


@dataclass(frozen=True, slots=True)
class NodeText:
    """A node's own text in what the model reads of it.

    Attributes:
        node_id: the node's.
        start: where the text begins in what is read, in characters.
        end: where it ends there.
        offset: what to add to a place in what is read, for the same place in the node's text.
    """

    node_id: str
    start: int
    end: int
    offset: int

    @classmethod
    def of(cls, scored: NodeWithScore) -> NodeText:
        """Find the text of a node; metadata may stand around it. One that does not stand there cannot be quoted."""
        own = scored.node.get_content(metadata_mode=MetadataMode.NONE)
        stripped = own.strip()  # the framework strips what it fills into its template
        start = scored.node.get_content(metadata_mode=MetadataMode.LLM).rfind(stripped)
        if start < 0:
            return cls(scored.node.node_id, 0, 0, 0)
        return cls(scored.node.node_id, start, start + len(stripped), own.index(stripped) - start)


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
