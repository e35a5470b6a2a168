"""What the prompts of one model look like where models differ: GritLM's own, unless its checkpoint says otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EmbeddingSide = Literal["Query", "Document"]  # of an embedding: what searches, and what is found


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFormat:
    """What the prompts of one model look like; the defaults are GritLM's.

    Attributes:
        query_instruction: what queries are embedded under where a caller gives no instruction.
        document_instruction: the same for documents.
    """

    query_instruction: str = ""
    document_instruction: str = ""

    def instruction(self, side: EmbeddingSide, given: str | None = None) -> str:
        """Return what a text is embedded under: what the caller gave (`""` is none), else the model's own.

        >>> model = PromptFormat(query_instruction="Find passages")
        >>> model.instruction("Query"), model.instruction("Query", "Find code"), model.instruction("Query", "")
        ('Find passages', 'Find code', '')
        """
        if given is not None:
            return given
        return self.query_instruction if side == "Query" else self.document_instruction
