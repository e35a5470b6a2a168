"""GritRetriever: retrieval whose documents the chat model of the same GritLM does not read twice."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from pydantic import ConfigDict, Field, InstanceOf, StrictFloat, StrictInt, model_validator

from grit_integrations.errors import ContextOverflowError, GritError, OptionError
from grit_integrations.langchain.additions import aadd, add, documents_by_id, parts_of, telling_what_is_stored
from grit_integrations.langchain.embeddings import GritEmbeddings
from grit_integrations.langchain.inside import embeddings_inside, model_inside
from grit_integrations.langchain.known_stores import check_search_options
from grit_integrations.langchain.reranker import GritReranker
from grit_integrations.langchain.scores import score_of, scored
from grit_integrations.langchain.search import StoreSearch
from grit_integrations.langchain.source import ModelSource
from grit_integrations.loading.sources import is_source_named
from grit_integrations.model import GritLM
from grit_integrations.option_values import check, is_count
from grit_integrations.options import CANDIDATES, MODES, check_cosine, check_prefer_cached

logger = logging.getLogger(__name__)

_MOST = 1_000_000  # documents of one search; stores make room for as many as they are asked for
_ALSO_OF_STORES = frozenset({"fetch_k", "metadata", "tags"})  # names that a store's own search may have too


class GritRetriever(ModelSource, BaseRetriever):
    """Retrieve documents from any vector store or retriever, and have their keys and values ready for the answer.

    What it returns is remembered for the chat model of the same `GritLM`: where a later prompt holds one of these
    documents verbatim, in whatever template, it is read from the KV cache. Unless `model` is given, it is that of the
    `GritEmbeddings` inside the store or retriever, however they are wrapped.

    `metadata["relevance_score"]` is the cosine of query and document, and has no part in whether two documents are
    equal. In-memory stores and Chroma tell it. What comes back from another store with `GritEmbeddings` is embedded
    once more for it. A store with other embeddings scores on a scale of its own: there it is left out. The scores of a
    wrapped `retriever` stay what they are.

    Instantiate:
        >>> from langchain_core.documents import Document
        >>> from grit_integrations.langchain import ChatGrit, GritRetriever
        >>> heart = Document("The heart is a muscle that pumps blood through the vessels of the body. " * 4)
        >>> stars = Document("Stars shine because they burn hydrogen to helium for billions of years. " * 4)
        >>> retriever = GritRetriever.from_documents([heart, stars], k=1)

    Usage:
        >>> [document] = retriever.invoke("What pumps blood?")
        >>> document.page_content == heart.page_content
        True
        >>> 0 < document.metadata["relevance_score"] <= 1
        True

    Rerank:
        The best `k` of `fetch_k` documents come back, and the same model finds them, puts them in order and answers.

        >>> from grit_integrations.langchain import GritReranker
        >>> careful = GritRetriever(vectorstore=retriever.vectorstore, k=1, reranker=GritReranker(), fetch_k=10)
        >>> len(careful.invoke("What pumps blood?"))
        1

    Use within a chain:
        >>> from langchain_core.prompts import ChatPromptTemplate
        >>> from langchain_core.runnables import RunnablePassthrough
        >>> prompt = ChatPromptTemplate.from_template("Context: {context}\\n\\nQuestion: {question}")
        >>> chat = ChatGrit(model=retriever.grit, max_tokens=4)
        >>> context = retriever | (lambda documents: documents[0].page_content)
        >>> chain = {"context": context, "question": RunnablePassthrough()} | prompt | chat
        >>> first, second = chain.invoke("What pumps blood?"), chain.invoke("Where does blood go?")
        >>> second.usage_metadata["input_token_details"]["cache_read"] > 0
        True

    Raises:
        OptionError: not exactly one of `vectorstore` and `retriever`, an impossible value, an option that would reach
            nobody, or no `GritLM` to be found inside and none named.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    vectorstore: VectorStore | None = None
    """Where documents are searched, and added by `add_documents`."""

    retriever: InstanceOf[BaseRetriever] | None = None
    """Another retriever to ask instead, such as a hybrid or compressing one."""

    k: StrictInt = 4
    """At most this many documents come back. A wrapped `retriever` decides for itself how many it looks for."""

    search_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the search, such as `{"filter": ...}`; those of a call win. `{"score_threshold": 0.3}` keeps
    what has at least this cosine, in every store, before any reranking."""

    reranker: InstanceOf[BaseDocumentCompressor] | None = None
    """Puts the documents that were found in order, before the best `k` come back: a `GritReranker`, which takes the
    retriever's model unless it names one, or any other document compressor. Its own `top_n` limits what comes back
    too."""

    fetch_k: StrictInt | None = None
    """The reranker sees at most this many documents, and at least `k`. `None` is 20, and all that a wrapped `retriever`
    returns."""

    prefer_cached: StrictFloat = 0.0
    """How much better a document must score to stand before one whose keys and values are stored. 0 leaves the order as
    it is; so do documents without scores, or in an order that is not that of the scores."""

    @model_validator(mode="before")
    @classmethod
    def _take_the_model_inside(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or "model" in values:
            return values
        models = (model_inside(values.get(name)) for name in ("vectorstore", "retriever", "reranker"))
        found = next((model for model in models if model is not None), None)
        return values if found is None else {**values, "model": found}

    @model_validator(mode="after")
    def _check_grit_retriever(self) -> Self:
        if (self.vectorstore is None) == (self.retriever is None):
            given = "Neither" if self.vectorstore is None else "Both"
            raise OptionError(f"{given} of vectorstore and retriever given. Give exactly one of them.")
        if "k" in self.search_kwargs:
            raise OptionError("search_kwargs has a k. Give it as the retriever's own k instead.")
        self._asked(None, {})
        if self.fetch_k is not None:
            _check_k(self.fetch_k, "fetch_k")
            if self.reranker is None:
                raise OptionError(
                    f"fetch_k={self.fetch_k} has no effect without a reranker. Set k, or give a reranker."
                )
        check_prefer_cached(self.prefer_cached)
        if "model" not in self.model_fields_set and not is_source_named():
            raise OptionError(
                f"No GritLM was found in the {type(self.vectorstore or self.retriever).__name__}, and none was named. "
                "Say with model= which one answers from these documents, or set GRIT_MODEL."
            )
        return self

    @model_validator(mode="after")
    def _give_the_reranker_a_model(self) -> Self:
        given = self.reranker
        if isinstance(given, GritReranker) and not given.model_fields_set & {"model", *self._load_fields}:
            self.reranker = given.model_copy(update={"model": self.grit})
        return self

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Document],
        *,
        model: GritLM | str | None = None,
        vectorstore: VectorStore | None = None,
        k: int = 4,
        **options: Any,
    ) -> Self:
        """Return a retriever over `documents`, embedded and cached.

        Args:
            documents: what to add; raises as `add_documents` does.
            model: a `GritLM` or the name of one; by default that of the vector store, else `GRIT_MODEL` or grit-mini.
            vectorstore: where they go; by default into main memory.
            k: how many documents a query returns.
            **options: further fields of the retriever.
        """
        if vectorstore is None:
            vectorstore = InMemoryVectorStore(GritEmbeddings() if model is None else GritEmbeddings(model=model))
        elif model is not None:
            options["model"] = model
        retriever = cls(vectorstore=vectorstore, k=k, **options)
        retriever.add_documents(documents)
        return retriever

    # Adding

    def add_documents(
        self, documents: Iterable[Document], ids: Iterable[str] | None = None, *, progress: bool | None = None
    ) -> list[str]:
        """Embed and store documents, and keep their keys and values for answers.

        With `caching="doc"` one pass does both. Adding a document again replaces it: without `ids`, its own `id` or
        else a digest of text and metadata names it. They go to the store in parts that it can take, and each stays
        whatever becomes of the next: an error's notes say how many are stored.

        Args:
            documents: what to add; an empty list adds nothing.
            ids: one for each document.
            progress: show a bar while documents are read into the cache; `None` shows it on a terminal. Embedding has
                the embeddings' own `show_progress`.

        Returns:
            the id of each document.

        Raises:
            OptionError: a retriever without a vector store, not as many ids as documents, one id for two documents, or
                a store that has some of the ids and can neither replace nor delete.
            ContextOverflowError: a document longer than the window of the store's own model; nothing has been stored.
            EmptyTextError: a document is blank; nothing has been stored.
            PromptError: NUL, lone surrogate; nothing has been stored.
        """
        store, names, unique = self._checked(documents, ids)
        for done, part in parts_of(store, unique):
            with telling_what_is_stored(done, len(unique)):
                add(store, part)
            self._keep([document.page_content for document in part.values()], progress)
        return names

    async def aadd_documents(
        self, documents: Iterable[Document], ids: Iterable[str] | None = None, *, progress: bool | None = None
    ) -> list[str]:
        """Add documents without blocking the event loop; otherwise like `add_documents`."""
        store, names, unique = await asyncio.to_thread(self._checked, documents, ids)
        for done, part in parts_of(store, unique):
            with telling_what_is_stored(done, len(unique)):
                await aadd(store, part)
            await asyncio.to_thread(self._keep, [document.page_content for document in part.values()], progress)
        return names

    def _checked(
        self, documents: Iterable[Document], ids: Iterable[str] | None
    ) -> tuple[VectorStore, list[str], dict[str, Document]]:
        if self.vectorstore is None:
            raise OptionError("This retriever wraps another one and has nowhere to add to. Give it a vectorstore.")
        names, unique = documents_by_id(documents, ids)
        embeddings = embeddings_inside(self.vectorstore)
        if unique and embeddings is not None:
            embeddings.check_documents([unique[name].page_content for name in names])
        return self.vectorstore, names, unique

    def _keep(self, texts: list[str], progress: bool | None) -> None:
        """Keep the blocks of documents unless embedding them has done so. What the window cannot hold is left out."""
        if not MODES[self.grit.caching].keeps_documents or self._embedding_keeps():
            return
        try:
            self.grit.cache_documents(texts, progress=progress)
        except ContextOverflowError:
            fitting = [text for text in texts if self._fits(text)]
            left = len(texts) - len(fitting)
            logger.warning("%d documents are longer than the model's window and are not in its cache.", left)
            self.grit.cache_documents(fitting, progress=progress)

    def _fits(self, text: str) -> bool:
        try:
            self.grit.stored([text])
        except ContextOverflowError:
            return False
        return True

    def _embedding_keeps(self) -> bool:
        embeddings = None if self.vectorstore is None else self.vectorstore.embeddings
        return (
            isinstance(embeddings, GritEmbeddings)
            and embeddings.grit is self.grit
            and embeddings.document_instruction in (None, self.grit.document_instruction)
            and self.grit.settings.embedding_keeps
        )

    # Retrieving

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None, **options: Any
    ) -> list[Document]:
        wanted, least, rest = self._asked(k, options)
        if self.retriever is not None:
            answer = self.retriever.invoke(query, {"callbacks": run_manager.get_child()}, **rest)
            found = [scored(document) for document in answer[: self._candidates(wanted)]]
        else:
            found = self._search(wanted, least, rest).run(query)
        if self.reranker is not None and found:
            found = list(self.reranker.compress_documents(found, query, callbacks=run_manager.get_child()))
        return self._ready(found[:wanted])

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None, **options: Any
    ) -> list[Document]:
        wanted, least, rest = self._asked(k, options)
        if self.retriever is not None:
            answer = await self.retriever.ainvoke(query, {"callbacks": run_manager.get_child()}, **rest)
            found = [scored(document) for document in answer[: self._candidates(wanted)]]
        else:
            found = await self._search(wanted, least, rest).arun(query)
        if self.reranker is not None and found:
            found = list(await self.reranker.acompress_documents(found, query, callbacks=run_manager.get_child()))
        return await asyncio.to_thread(self._ready, found[:wanted])

    def check_options(self, *, k: int | None = None, **options: Any) -> None:
        """Refuse options of `invoke` that cannot be, before anything is asked; raises as the class says."""
        self._asked(k, options)

    def _asked(self, k: int | None, options: Mapping[str, Any]) -> tuple[int, float | None, dict[str, Any]]:
        """Return how many documents are wanted, their least cosine, and what else the search is told."""
        wanted, rest = _check_k(self.k if k is None else k), {**self.search_kwargs, **options}
        for name in rest:
            if name in type(self).model_fields and name not in _ALSO_OF_STORES:
                raise OptionError(f"{name} is no option of a search. Give it to the retriever itself.")
        threshold = rest.pop("score_threshold", None)
        least = None if threshold is None else check_cosine(threshold, "score_threshold")
        if self.vectorstore is not None:
            check_search_options(self.vectorstore, rest)
        elif isinstance(self.retriever, GritRetriever):
            return wanted, None, {**rest, "score_threshold": least}
        elif self.retriever is not None and (least is not None or (rest and not self.retriever._expects_other_args)):
            name = "score_threshold" if least is not None else next(iter(rest))
            kind = type(self.retriever).__name__
            raise OptionError(f"{name} does not reach the search of the {kind} that is wrapped. Set it there.")
        return wanted, least, rest

    def _search(self, wanted: int, least: float | None, options: Mapping[str, Any]) -> StoreSearch:
        assert self.vectorstore is not None
        return StoreSearch(
            store=self.vectorstore,
            embeddings=embeddings_inside(self.vectorstore),
            k=self._candidates(wanted),
            least=least,
            options=options,
            judged=self.reranker is not None,
        )

    def _candidates(self, k: int) -> int:
        """Return how many documents to find for `k`."""
        if self.reranker is None:
            return k
        if self.fetch_k is None and self.retriever is not None:
            return sys.maxsize
        return max(k, self.fetch_k or CANDIDATES)

    def _ready(self, documents: list[Document]) -> list[Document]:
        """Return documents in their final order, known to the chat model and on their way into memory."""
        ordered = documents
        try:  # retrieval is worth having without a cache
            ordered = self._stored_first(documents)
            texts = [document.page_content for document in ordered if document.page_content.strip()]
            self.grit.remember_documents(texts)
            self.grit.prefetch(texts)
        except GritError as error:
            logger.info("The retrieved documents were not prefetched: %s", error)
        return ordered

    def _stored_first(self, documents: list[Document]) -> list[Document]:
        scores = [score for document in documents if (score := score_of(document)) is not None]
        if len(scores) < len(documents):
            return documents
        texts = [document.page_content for document in documents]
        return [documents[place] for place in self.grit.prefer_stored(texts, scores, margin=self.prefer_cached)]


def _check_k(k: int, name: str = "k") -> int:
    check(is_count(k, 1, _MOST), name, k, f"a whole number from 1 to {_MOST:,}")
    return k
