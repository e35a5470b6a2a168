"""GritEmbedding: LlamaIndex's embedding model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import BaseNode

from grit_integrations.llama_index.arguments import check_count
from grit_integrations.llama_index.documents import embedded_text
from grit_integrations.llama_index.source import GritComponent, as_grit, model_fields_of
from grit_integrations.llama_index.vector_cache import Vector, VectorCache, cache_key
from grit_integrations.loading.sources import BUNDLED_NAME
from grit_integrations.model import GritLM
from grit_integrations.prompts.formats import check_text

Side = Literal["query", "text"]


class GritEmbedding(GritComponent, BaseEmbedding):
    """Embed queries and documents with a GritLM.

    Queries and documents are two sides with an instruction each; GRIT gives documents none. The model's scheduler
    forms the batches, from all callers and sorted by length, so `embed_batch_size` only says how many texts are handed
    over at once.

    `embeddings_cache` takes any of the framework's key-value stores and is safe here: keys name the model, the side
    and the options, so queries never get documents' vectors and several models may share one store.

    Args:
        model: a `GritLM`, or a name that is loaded at first use; by default the environment's `GRIT_MODEL`, else
            `"grit-mini"`.
        query_instruction: what queries are for, such as `"Given a question, retrieve passages that answer it"`; `""` is
            none, and `None` what the checkpoint says, of which GritLM says nothing.
        text_instruction: the same for documents; leave it empty for retrieval.
        truncate: cut texts that do not fit into the model's window instead of raising.
        embed_batch_size: texts handed to the model at once, at most 2,048.
        num_workers: concurrent batches of the async methods; the model orders them itself, so None is good.
        callback_manager: the framework's callbacks.
        embeddings_cache: a `BaseKVStore` that keeps vectors.
        rate_limiter: the framework's throttle.
        **options: with a name, the arguments of `GritLM` (`device`, `dtype`, `revision`, `truncate_dim`, ...).

    Raises:
        OptionError: an option that does not exist, or that contradicts the `GritLM` given.

    Example:
        >>> from grit_integrations.llama_index import GritEmbedding
        >>> embedding = GritEmbedding("grit-mini", query_instruction="Given a question, retrieve passages")
        >>> query = embedding.get_query_embedding("What pumps the blood?")
        >>> len(query) == len(embedding.get_text_embedding("The heart pumps blood."))
        True
    """

    query_instruction: str | None = Field(default=None, description="What queries are for; None as the model says.")
    text_instruction: str | None = Field(default=None, description="What documents are for; None as the model says.")
    truncate: bool = Field(default=False, description="Whether texts that do not fit are cut.")
    embed_batch_size: int = Field(default=256, description="Texts handed to the model at once.", gt=0, le=2048)
    embeddings_cache: Any | None = Field(default=None, description="Key-value store of vectors.", exclude=True)

    def __init__(
        self,
        model: GritLM | str | Path | None = None,
        *,
        query_instruction: str | None = None,
        text_instruction: str | None = None,
        truncate: bool = False,
        embed_batch_size: int = 256,
        num_workers: int | None = None,
        callback_manager: CallbackManager | None = None,
        embeddings_cache: Any | None = None,
        rate_limiter: Any | None = None,
        **options: Any,
    ) -> None:
        check_count("num_workers", num_workers)
        super().__init__(
            as_grit(model, options, GritEmbedding),
            query_instruction=query_instruction,
            text_instruction=text_instruction,
            truncate=truncate,
            embed_batch_size=embed_batch_size,
            num_workers=num_workers,
            callback_manager=callback_manager,
            embeddings_cache=VectorCache.around(embeddings_cache),
            rate_limiter=rate_limiter,
        )

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, VectorCache.around(value) if name == "embeddings_cache" else value)

    @classmethod
    def class_name(cls) -> str:
        """Return the name that serialised components carry."""
        return "GritEmbedding"

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Return everything that decides the vectors, as plain data.

        It is the ingestion cache's key. So a model in a directory, whose contents may change under its name, also
        gives its fingerprint (read from the files' ends, not from the weights); `from_dict` takes a new one.
        """
        data = super().to_dict(**kwargs)
        return {**data, "fingerprint": self._model.fingerprint} if self._is_local() else data

    def to_payload(self) -> dict[str, Any]:
        """Return what events say about this model."""
        fields = ("model_name", "revision", "dtype", "embed_batch_size", "query_instruction", "text_instruction")
        return {"class_name": self.class_name(), **{name: getattr(self, name) for name in fields}}

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Embed nodes, as a step of a pipeline.

        Raises:
            EmptyTextError: a node without text; it is named, and nothing has been embedded yet.
            PromptError: a node with text that the model cannot read.
        """
        _check_nodes(nodes)
        return super().__call__(nodes, **kwargs)

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Embed nodes without blocking the event loop; otherwise like a call."""
        _check_nodes(nodes)
        return await super().acall(nodes, **kwargs)

    def _get_query_embedding(self, query: str) -> Vector:
        return self._embed("query", [query])[0]

    async def _aget_query_embedding(self, query: str) -> Vector:
        return (await self._aembed("query", [query]))[0]

    def _get_text_embedding(self, text: str) -> Vector:
        return self._embed("text", [text])[0]

    async def _aget_text_embedding(self, text: str) -> Vector:
        return (await self._aembed("text", [text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Vector]:
        return self._embed("text", texts)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Vector]:
        return await self._aembed("text", texts)

    def _embed(self, side: Side, texts: Sequence[str]) -> list[Vector]:
        cache: VectorCache | None = self.embeddings_cache
        if cache is None:
            return self._compute(side, texts)
        keys = self._cache_keys(side, texts)
        found = cache.look_up(keys)
        missing = [index for index, vector in enumerate(found) if vector is None]
        fresh = self._compute(side, [texts[index] for index in missing]) if missing else []
        cache.keep([keys[index] for index in missing], fresh)
        return _merged(found, fresh)

    async def _aembed(self, side: Side, texts: Sequence[str]) -> list[Vector]:
        cache: VectorCache | None = self.embeddings_cache
        if cache is None:
            return await self._acompute(side, texts)
        keys = await asyncio.to_thread(self._cache_keys, side, texts)  # it may have to open the checkpoint
        found = await cache.alook_up(keys)
        missing = [index for index, vector in enumerate(found) if vector is None]
        fresh = await self._acompute(side, [texts[index] for index in missing]) if missing else []
        await cache.akeep([keys[index] for index in missing], fresh)
        return _merged(found, fresh)

    def _compute(self, side: Side, texts: Sequence[str]) -> list[Vector]:
        embed = self._model.embed_queries if side == "query" else self._model.embed_documents
        vectors = embed(texts, instruction=self._instruction(side), truncate=self.truncate, progress=False)
        return _lists(vectors)  # the framework draws its own bar

    async def _acompute(self, side: Side, texts: Sequence[str]) -> list[Vector]:
        embed = self._model.aembed_queries if side == "query" else self._model.aembed_documents
        return _lists(await embed(texts, instruction=self._instruction(side), truncate=self.truncate))

    def _instruction(self, side: Side) -> str | None:
        return self.query_instruction if side == "query" else self.text_instruction

    def _cache_keys(self, side: Side, texts: Sequence[str]) -> list[str]:
        """Return one key a text under all that decides its vector; where the model lies is not part of it."""
        fields = model_fields_of(self._model)
        identity: dict[str, object] = {name: fields[name] for name in fields if name not in ("model_name", "revision")}
        identity |= {"fingerprint": self._model.fingerprint, "role": side}
        own = self._model.query_instruction if side == "query" else self._model.document_instruction
        given = self._instruction(side)
        identity |= {"instruction": own if given is None else given, "truncate": self.truncate}
        return [cache_key(identity, text) for text in texts]

    def _is_local(self) -> bool:
        return self.model_name == BUNDLED_NAME or Path(self.model_name).expanduser().is_dir()


def _check_nodes(nodes: Sequence[BaseNode]) -> None:
    for node in nodes:
        check_text(embedded_text(node), f"Node {node.node_id}")


def _lists(vectors: Any) -> list[Vector]:
    """Return (n, dim) float32 as plain lists, which JSON stores and vector databases want."""
    lists: list[Vector] = vectors.tolist()
    return lists


def _merged(found: Sequence[Vector | None], fresh: Sequence[Vector]) -> list[Vector]:
    """Put the fresh vectors where none was found."""
    rest = iter(fresh)
    return [next(rest) if vector is None else vector for vector in found]
