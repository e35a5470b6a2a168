"""GritEmbeddings: the embedding half of a GritLM for LangChain."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

from langchain_core.embeddings import Embeddings
from pydantic import ConfigDict, Field, StrictBool, StrictInt, StrictStr

from grit_integrations.langchain.errors import overflow_as_langchains
from grit_integrations.langchain.source import ModelSource
from grit_integrations.prompts.embedding import embedding_inputs
from grit_integrations.results import Vectors


class GritEmbeddings(ModelSource, Embeddings):
    """Embed with GritLM; queries may carry an instruction, documents usually do not.

    Instantiate:
        Constructing costs nothing; the model loads at first use, and adapters of one model share its weights.

        >>> from grit_integrations.langchain import GritEmbeddings
        >>> embeddings = GritEmbeddings(query_instruction="Given a question, retrieve passages that answer it")

    Embed single text:
        >>> vector = embeddings.embed_query("What pumps blood?")
        >>> len(vector) == embeddings.grit.dim
        True

    Embed multiple texts:
        >>> len(embeddings.embed_documents(["The heart pumps blood.", "Stars shine by fusion."]))
        2

    Async:
        >>> import asyncio
        >>> asyncio.run(embeddings.aembed_query("What pumps blood?")) == vector
        True

    Raises:
        OptionError: an option that does not exist, an impossible value, or one that the `GritLM` given has already.
        EmptyTextError: a text is blank; the message names its index.
        PromptError: not a string, NUL, lone surrogate.
        ContextOverflowError: a text is longer than the model's window and `truncate` is off.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    query_instruction: StrictStr | None = None
    """What queries are for, such as `"Given a question, retrieve passages that answer it"`; `""` is none, and `None`
    what the checkpoint says, of which GritLM says nothing."""

    document_instruction: StrictStr | None = None
    """GRIT gives documents none for retrieval; for symmetric tasks give both sides the same. By default what the
    checkpoint says."""

    truncate: StrictBool = False
    """Cut texts that do not fit into the window, with a warning that says how much, instead of raising."""

    show_progress: StrictBool | None = False
    """Show a bar while embedding documents; `None` shows it on a terminal."""

    pooling: StrictStr | None = None
    """How token states become a vector, when `model` is a name; by default what the checkpoint says."""

    normalize: StrictBool = True
    """Return vectors of unit length, when `model` is a name."""

    truncate_dim: Annotated[StrictInt, Field(ge=1)] | None = None
    """How many leading dimensions are kept, when `model` is a name; `None` keeps all."""

    _load_fields: ClassVar[tuple[str, ...]] = (*ModelSource._load_fields, "pooling", "normalize", "truncate_dim")

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one vector a text, in their order; no texts, no vectors."""
        with overflow_as_langchains():
            vectors = self.grit.embed_documents(
                texts, instruction=self.document_instruction, truncate=self.truncate, progress=self.show_progress
            )
        return _lists(vectors)

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query under `query_instruction`."""
        with overflow_as_langchains():
            vectors = self.grit.embed_queries([text], instruction=self.query_instruction, truncate=self.truncate)
        return _lists(vectors)[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents without blocking the event loop; cancelling the task stops the work."""
        with overflow_as_langchains():
            vectors = await self.grit.aembed_documents(
                texts, instruction=self.document_instruction, truncate=self.truncate
            )
        return _lists(vectors)

    async def aembed_query(self, text: str) -> list[float]:
        """Embed a query without blocking the event loop; cancelling the task stops the work."""
        with overflow_as_langchains():
            vectors = await self.grit.aembed_queries([text], instruction=self.query_instruction, truncate=self.truncate)
        return _lists(vectors)[0]

    def check_documents(self, texts: Sequence[str]) -> None:
        """Refuse documents that cannot be embedded, without embedding any; raises as the class says."""
        if not self.truncate:
            grit = self.grit
            with overflow_as_langchains():
                embedding_inputs(
                    grit.checkpoint.tokenizer, grit.window, texts, "Document", instruction=self.document_instruction
                )

    @property
    def namespace(self) -> str:
        """A name for these vectors in `CacheBackedEmbeddings`: it changes with everything that changes a vector.

        Cache queries, if at all, in a store of their own: LangChain keys them by text alone, and a text has other
        vectors as a query and as a document.
        """
        grit = self.grit
        parts = (
            grit.fingerprint,
            replace(grit.load_options, device=None, device_map=None).key(),  # where it runs does not matter
            grit.pooling,
            grit.settings.normalize,
            grit.settings.truncate_dim,
            grit.query_instruction if self.query_instruction is None else self.query_instruction,
            grit.document_instruction if self.document_instruction is None else self.document_instruction,
            self.truncate,
        )
        return "grit-" + hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _lists(vectors: Vectors) -> list[list[float]]:
    lists: list[list[float]] = vectors.tolist()  # numpy leaves it untyped
    return lists
