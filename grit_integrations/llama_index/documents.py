"""LlamaIndex's nodes to the texts that GritLM reads."""

from __future__ import annotations

from dataclasses import dataclass

from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore


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
        start = read_text(scored.node).rfind(stripped)
        if start < 0:
            return cls(scored.node.node_id, 0, 0, 0)
        return cls(scored.node.node_id, start, start + len(stripped), own.index(stripped) - start)


def read_text(node: BaseNode) -> str:
    """Return what the model reads of a node to answer from it, its metadata included: the document of a KV block."""
    return node.get_content(MetadataMode.LLM)


def embedded_text(node: BaseNode) -> str:
    """Return what of a node is embedded, its metadata included."""
    return node.get_content(MetadataMode.EMBED)
