"""Split documents into passages that are measured in the model's own tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from grit_integrations.errors import IngestError, MissingExtraError, OptionError, PromptError
from grit_integrations.model import GritLM

try:
    from langchain_core.documents import Document
    from langchain_text_splitters import RecursiveCharacterTextSplitter
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] not in ("langchain_core", "langchain_text_splitters"):
        raise
    raise MissingExtraError("langchain-text-splitters", "cli") from None

DEFAULT_TOKENS = 192
_LEAST_TOKENS = 16

# Headings, paragraphs, lines, sentences, words, and in the end characters.
_SEPARATORS = (r"\n(?=#{1,6} )", r"\n\n", r"\n", r"(?<=[.!?])\s+", r"\s+", "")
_HEADING = re.compile(r"#{1,6} [^\n]*")


def most_tokens(model: GritLM) -> int:
    """Return how long a passage may be: a joined text may have a few tokens more than its parts."""
    return model.window * 3 // 4


class PassageSplitter:
    """Cut documents at headings, paragraphs or sentences into passages of at most `tokens` tokens.

    Args:
        model: counts the tokens; no weights are read for it.
        tokens: the most a passage may have, at most three quarters of the model's window.

    Raises:
        OptionError: passages of that size are not possible with this model.
    """

    def __init__(self, model: GritLM, tokens: int = DEFAULT_TOKENS) -> None:
        most = most_tokens(model)
        if not _LEAST_TOKENS <= tokens <= most:
            raise OptionError(
                f"Passages of {tokens:,} tokens are not possible: the model's window is {model.window:,} tokens, so "
                f"give {_LEAST_TOKENS} to {most:,}."
            )
        self.tokens = tokens
        self._most = most
        self._count = lru_cache(maxsize=1 << 16)(model.count_tokens)  # without line breaks, words are counted singly
        self._splitter = RecursiveCharacterTextSplitter(
            separators=list(_SEPARATORS),
            is_separator_regex=True,
            keep_separator="start",
            chunk_size=tokens,
            chunk_overlap=0,
            length_function=self._count,
            add_start_index=True,
        )

    def split(self, documents: Sequence[Document]) -> list[Document]:
        """Return the passages in order, with the documents' metadata and `start_index`, their place in the text.

        Raises:
            IngestError: text that no prompt can hold.
        """
        try:
            passages = [passage for document in documents for passage in self._split(document)]
            longest = max((self._count(passage.page_content) for passage in passages), default=0)
        except PromptError as error:
            raise IngestError(f"the text cannot become a prompt: {error}") from error
        if longest > self._most:
            raise IngestError(
                f"the text cannot be split: a passage has {longest:,} tokens, {self._most:,} are possible"
            )
        return passages

    def _split(self, document: Document) -> list[Document]:
        found = [p for p in self._splitter.split_documents([document]) if p.page_content.strip()]
        passages: list[Document] = []
        for passage in reversed(found):
            joined = self._with_heading(document, passage, passages[-1]) if passages else None
            if joined is None:
                passages.append(passage)
            else:
                passages[-1] = joined
        return passages[::-1]

    def _with_heading(self, document: Document, heading: Document, below: Document) -> Document | None:
        """Return a heading that stands alone together with the text below it, unless that would be too long."""
        text = heading.page_content
        if _HEADING.fullmatch(text) is None or self._count(text) > self.tokens // 4:
            return None
        joined = _joined(document, heading, below)
        return joined if self._count(joined.page_content) <= min(self._most, self.tokens * 3 // 2) else None


def _joined(document: Document, first: Document, last: Document) -> Document:
    """Return the passage from the start of `first` to the end of `last`, as it stands in the document."""
    start = first.metadata["start_index"]
    end = last.metadata["start_index"] + len(last.page_content)
    return Document(document.page_content[start:end], metadata=first.metadata)
