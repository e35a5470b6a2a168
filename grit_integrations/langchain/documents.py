"""LangChain's documents to the texts that GritLM reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import BaseMessage, ToolMessage

from grit_integrations.errors import OptionError


@dataclass(frozen=True, slots=True)
class DocumentText:
    """A document as the model reads it, and what is known of it.

    Attributes:
        text: what the model reads.
        index: its place in the list that was given.
        id: the document's own, if it has one.
        metadata: the document's own.
    """

    text: str
    index: int
    id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def document_texts(documents: object) -> tuple[DocumentText, ...]:
    """Return `documents` with blank ones left out; `None` is no documents.

    Raises:
        OptionError: not a list, or something in it that is neither a string nor has a `page_content`.

    Example:
        >>> from langchain_core.documents import Document
        >>> texts = document_texts([Document("The heart pumps blood.", id="h"), " ", "Stars shine."])
        >>> [(each.text, each.index, each.id) for each in texts]
        [('The heart pumps blood.', 0, 'h'), ('Stars shine.', 2, None)]
    """
    if documents is None:
        return ()
    if isinstance(documents, str) or not isinstance(documents, Sequence):
        raise OptionError(
            f"documents is a {type(documents).__name__}. It must be a list of Documents or strings: [document]."
        )
    texts = [_text(document, index) for index, document in enumerate(documents)]
    return tuple(each for each in texts if each.text.strip())


def known_texts(messages: Sequence[BaseMessage]) -> list[str]:
    """Return the documents that tools left beside their answers, in `ToolMessage.artifact`.

    A tool may leave anything there; what holds no document is passed over.
    """
    artifacts = [message.artifact for message in messages if isinstance(message, ToolMessage)]
    lists = [artifact if isinstance(artifact, list | tuple) else [artifact] for artifact in artifacts]
    texts = [_page_content(item) for items in lists for item in items]
    return [text for text in texts if text is not None and text.strip()]


def _text(document: object, index: int) -> DocumentText:
    text = document if isinstance(document, str) else _page_content(document)
    if text is None:
        raise OptionError(
            f"Document {index} is a {type(document).__name__}. It must be a Document, a string, or have a page_content."
        )
    own_id, metadata = _attribute(document, "id"), _attribute(document, "metadata")
    return DocumentText(
        text,
        index,
        None if own_id is None else str(own_id),
        metadata if isinstance(metadata, Mapping) else {},
    )


def _page_content(item: Any) -> str | None:
    text = _attribute(item, "page_content")
    return text if isinstance(text, str) else None


def _attribute(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, Mapping) else getattr(item, name, None)
