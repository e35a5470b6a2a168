"""The prompt strings that the trainer uses."""

from __future__ import annotations

from grit_integrations.prompts import rag_prompt


def document_question(*, title: str, text: str, query: str) -> str:
    """Lay out one document and a question as `documents=` does."""
    return rag_prompt(query, [f"{title} {text}"])
