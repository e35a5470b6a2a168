"""GritReranker: the model that retrieves and answers also puts documents in order."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Self

from langchain_core.callbacks import Callbacks
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict, model_validator

from grit_integrations.errors import OptionError, PromptError
from grit_integrations.langchain.errors import overflow_as_langchains
from grit_integrations.langchain.options import RerankingFields
from grit_integrations.langchain.scores import SCORE, scored
from grit_integrations.langchain.source import ModelSource
from grit_integrations.options import check_top_n
from grit_integrations.prompts.formats import check_characters, check_text
from grit_integrations.results import Ranked

OWN = -1  # how LangChain's rerankers spell "as many as the instance says"


class GritReranker(RerankingFields, ModelSource, BaseDocumentCompressor):
    """Put documents in order of relevance with GritLM, whose weights `GritEmbeddings` and `ChatGrit` share.

    The options of `Reranking` (`method`, `order`, ...) are fields, and `reranking` is all of them as one value.
    With `order="passage-first"` or `"passage-block"` it starts from documents' stored keys and values, those of
    `caching="prefix"` and `"doc"`, and leaves them for the answer.

    Instantiate:
        Constructing costs nothing; the model loads at first use.

        >>> from langchain_core.documents import Document
        >>> from grit_integrations.langchain import GritReranker
        >>> reranker = GritReranker(top_n=1)
        >>> documents = [Document("Stars shine by fusion.", id="s"), Document("The heart pumps blood.", id="h")]

    Usage:
        Documents come back as copies, the best first, equal ones as they were.

        >>> [best] = reranker.compress_documents(documents, "What pumps blood?")
        >>> 0 <= best.metadata["relevance_score"] <= 1
        True

        `rerank` tells places and scores instead.

        >>> entries = reranker.rerank(documents, "What pumps blood?", top_n=None)
        >>> sorted(entry["index"] for entry in entries)
        [0, 1]

    Use within a chain:
        As `GritRetriever(reranker=...)`, or in LangChain's own
        `ContextualCompressionRetriever(base_compressor=reranker, base_retriever=...)`.

    Async:
        >>> import asyncio
        >>> asyncio.run(reranker.acompress_documents(documents, "What pumps blood?")) == [best]
        True

    Raises:
        OptionError: an impossible value, or a model whose tokenizer has no single token for yes or no.
        EmptyTextError: a blank query.
        PromptError: a document without a text, or with NUL or a lone surrogate; the message names its index.
        ContextOverflowError: a query that leaves no room in the window.
        RerankError: scores that are not numbers.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    top_n: int | None = None
    """At most this many documents come back, the best; `None` keeps all of them."""

    score_threshold: float | None = None
    """Documents that score less do not come back. Scores lie in 0..1, those of `method="embedding"` in -1..1, and those
    of `score="logit"` anywhere."""

    if TYPE_CHECKING:

        def __init__(self, **fields: Any) -> None: ...  # type checkers do not see those made of options

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        check_top_n(self.top_n)
        if self.score_threshold is not None and math.isnan(self.score_threshold):
            raise OptionError("score_threshold=nan is not possible. Give a number, or None for no limit.")
        return self

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return copies of the best documents in order, with `metadata["relevance_score"]`; raises as the class says.

        Args:
            documents: what to put in order; stays as it is.
            query: what they shall answer.
            callbacks: not used.
        """
        return _copies(documents, self.rerank(documents, query))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Put documents in order without blocking the event loop; otherwise like `compress_documents`."""
        return _copies(documents, await self.arerank(documents, query))

    def rerank(
        self, documents: Sequence[str | Document | Mapping[str, Any]], query: str, *, top_n: int | None = OWN
    ) -> list[dict[str, Any]]:
        """Return `{"index", "relevance_score"}` of the best documents, the best first; raises as the class says.

        Args:
            documents: strings, documents, or dicts with a `"text"` or `"page_content"`.
            query: what they shall answer.
            top_n: another number than the reranker's own, which is -1 here; `None` returns all.
        """
        count = self.top_n if top_n == OWN else top_n
        with overflow_as_langchains():
            ranked = self.grit.rerank(query, _texts(documents), top_n=count, **asdict(self.reranking))
        return self._entries(ranked)

    async def arerank(
        self, documents: Sequence[str | Document | Mapping[str, Any]], query: str, *, top_n: int | None = OWN
    ) -> list[dict[str, Any]]:
        """Put documents in order without blocking the event loop; otherwise like `rerank`."""
        count = self.top_n if top_n == OWN else top_n
        with overflow_as_langchains():
            ranked = await self.grit.arerank(query, _texts(documents), top_n=count, **asdict(self.reranking))
        return self._entries(ranked)

    def as_cross_encoder(self) -> BaseCrossEncoder:
        """Return this reranker in the shape of LangChain's cross-encoders.

        Its `score(pairs)` gives one score a (query, text) pair, in their order; `top_n` and `score_threshold` have no
        part in it. Pairs of one query are ranked together.

        Example:
            >>> from grit_integrations.langchain import GritReranker
            >>> encoder = GritReranker().as_cross_encoder()
            >>> scores = encoder.score([("What pumps blood?", "The heart."), ("What shines?", "Stars.")])
            >>> [0 <= score <= 1 for score in scores]
            [True, True]
        """
        return _CrossEncoder(self)

    def _entries(self, ranked: Sequence[Ranked]) -> list[dict[str, Any]]:
        least = -math.inf if self.score_threshold is None else self.score_threshold
        return [{"index": found.index, SCORE: found.score} for found in ranked if found.score >= least]


class _CrossEncoder(BaseCrossEncoder):
    """A `GritReranker` that keeps the order of what it scores."""

    def __init__(self, reranker: GritReranker) -> None:
        self._reranker = reranker

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        text_pairs = list(text_pairs)
        places: defaultdict[str, list[int]] = defaultdict(list)
        for place, (query, text) in enumerate(text_pairs):
            check_text(query, f"The query of pair {place}")
            check_characters(text, f"The text of pair {place}")
            places[query].append(place)
        scores = [math.nan] * len(text_pairs)
        with overflow_as_langchains():
            for query, mine in places.items():
                texts = [text_pairs[place][1] for place in mine]
                for found in self._reranker.grit.rerank(query, texts, **asdict(self._reranker.reranking)):
                    scores[mine[found.index]] = found.score
        return scores


def _copies(documents: Sequence[Document], entries: Sequence[Mapping[str, Any]]) -> list[Document]:
    """Return a copy of each document that an entry names, which shares no metadata with the original."""
    found = [(documents[entry["index"]], entry[SCORE]) for entry in entries]
    return [scored(document, score, metadata=deepcopy(document.metadata)) for document, score in found]


def _texts(documents: Sequence[str | Document | Mapping[str, Any]]) -> list[str]:
    if isinstance(documents, str) or not isinstance(documents, Sequence):
        raise PromptError(f"documents is a {type(documents).__name__}. Give a list, also for one: [document].")
    return [_text(document, index) for index, document in enumerate(documents)]


def _text(document: Any, index: int) -> str:
    """Return what the model reads of a document."""
    if isinstance(document, Mapping):
        text = document.get("text", document.get("page_content"))
    else:
        text = getattr(document, "page_content", document)
    if not isinstance(text, str):
        raise PromptError(
            f"Document {index} is a {type(document).__name__} without a text. Give a string, a Document, or a dict "
            "with a 'text'."
        )
    return text
