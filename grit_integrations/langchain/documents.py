"""LangChain's documents to the texts that GritLM reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage, ToolMessage

from grit_integrations.errors import OptionError


def as_texts(documents: object) -> tuple[str, ...]:
    """Return what stands in `documents`, blank ones left out; `None` is no documents.

    Raises:
        OptionError: not a list, or something in it that is neither a string nor has a `page_content`.

    Example:
        >>> from langchain_core.documents import Document
        >>> as_texts([Document("The heart pumps blood."), " ", "Stars shine."])
        ('The heart pumps blood.', 'Stars shine.')
    """
    if documents is None:
        return ()
    if isinstance(documents, str) or not isinstance(documents, Sequence):
        raise OptionError(
            f"documents is a {type(documents).__name__}. It must be a list of Documents or strings: [document]."
        )
    texts = [_checked_text(document, index) for index, document in enumerate(documents)]
    return tuple(text for text in texts if text.strip())


def known_texts(messages: Sequence[BaseMessage]) -> list[str]:
    """Return the documents that tools left beside their answers, in `ToolMessage.artifact`.

    A tool may leave anything there; what holds no document is passed over.
    """
    artifacts = [message.artifact for message in messages if isinstance(message, ToolMessage)]
    lists = [artifact if isinstance(artifact, list | tuple) else [artifact] for artifact in artifacts]
    texts = [_page_content(item) for items in lists for item in items]
    return [text for text in texts if text is not None and text.strip()]


def _checked_text(document: object, index: int) -> str:
    text = document if isinstance(document, str) else _page_content(document)
    if text is None:
        raise OptionError(
            f"Document {index} is a {type(document).__name__}. It must be a Document, a string, or have a page_content."
        )
    return text


def _page_content(item: Any) -> str | None:
    text = item.get("page_content") if isinstance(item, Mapping) else getattr(item, "page_content", None)
    return text if isinstance(text, str) else None
