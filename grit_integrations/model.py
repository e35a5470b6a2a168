"""GritLM: the one object. It turns calls into prompts, hands them to the engine's scheduler, and shapes the results."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import Unpack

from grit_integrations.engine.block_cache import (
    BlockCache,
    total_report,
)
from grit_integrations.engine.calls import in_thread, wait
from grit_integrations.engine.encoder import EncoderInput
from grit_integrations.engine.engine import Engine
from grit_integrations.engine.scheduler import Keep
from grit_integrations.engine.streaming import GenerationStream
from grit_integrations.errors import GritError, PromptError
from grit_integrations.handle import ModelHandle
from grit_integrations.options import MODES, Caching, Decoding, Reranking, RerankingOptions
from grit_integrations.progress import progress_bar
from grit_integrations.prompts.formats import Messages, check_characters
from grit_integrations.prompts.requests import (
    Prompt,
    check_quoting,
    count_prompt_tokens,
    embedding_inputs,
    generation_plan,
    last_question,
    quotable_regions,
    quotable_spans,
)
from grit_integrations.quoting.nearest import all_runs, best_regions
from grit_integrations.quoting.spans import Spans
from grit_integrations.reranking.rerank import rerank
from grit_integrations.results import CacheReport, Generation, Ranked

Vectors = npt.NDArray[np.float32]


class GenerationOptions(TypedDict, total=False):
    """Options of one generation, all of them optional.

    Attributes:
        decoding: how tokens are chosen and when they end.
        caching: another mode than the object's.
        known_documents: texts that may stand verbatim in the messages; where one does, it is a block of the KV cache.
            Documents given to `remember_documents` are known anyway.
        query_instruction: what the question was embedded under; used by the `query` modes of caching, and by quoting
            that picks sentences.
        quotable: of each document, where the part begins and ends that may be quoted, in characters; by default all.
    """

    decoding: Decoding | None
    caching: Caching | None
    known_documents: Sequence[str]
    query_instruction: str
    quotable: Sequence[tuple[int, int]] | None


class GritLM(ModelHandle):
    """One GRIT model that embeds and generates from a single set of weights.

    Constructing one costs nothing: the checkpoint is opened and loaded at first use, or at once by
    `GritLM.from_pretrained`. Objects with equal arguments share weights and worker thread within a process. All
    methods may be called from any thread; the `a...` methods never block their event loop.

    Args:
        source: directory in the Hugging Face layout, hub id, or `"grit-mini"` for the bundled model.
        revision: branch, tag or commit of a hub repository.
        device: such as `"cpu"` or `"cuda:1"`; by default the best one here.
        dtype: `"auto"` takes the checkpoint's precision, or float32 on a CPU that lacks it natively.
        attn_implementation: transformers' attention kernel; by default its `"sdpa"` without copies of the cache.
        quantization_config: a transformers quantisation config.
        device_map: transformers' placement over several devices.
        local_files_only: never ask the hub.
        embedding_head: safetensors file with a projection applied before pooling.
        pooling: `"mean"`, `"weightedmean"`, `"lasttoken"` or `"cls"`; by default what the checkpoint says, else mean.
        normalize: return vectors of unit length.
        truncate_dim: keep only so many leading dimensions of each vector (before normalising).
        caching: what of a prompt is read once and kept, unless a call says otherwise; `docs/caching.md` explains the
            modes. `"prefix"` changes no answer; with `"doc"`, `embed_documents` keeps what it reads.
        kv_store: where it is kept; by default in 512 MB of main memory that all objects of these weights share.
        cache_policy: which blocks are kept on disk, and when reading one back pays.

    Example:
        >>> from grit_integrations import GritLM
        >>> grit = GritLM.bundled()
        >>> grit.embed_documents(["The heart pumps blood.", "Stars shine by fusion."]).shape[0]
        2
    """

    # Embedding

    def embed_queries(
        self, texts: Sequence[str], *, instruction: str = "", truncate: bool = False, progress: bool | None = None
    ) -> Vectors:
        """Embed queries under a task instruction.

        Args:
            texts: an empty list gives an empty result.
            instruction: what the query is for, such as `"Given a question, retrieve passages that answer it"`.
            truncate: cut texts that do not fit into the window instead of raising, with a warning that says how much.
            progress: show a bar if it takes more than two seconds; `None` shows it on a terminal only.

        Returns:
            (len(texts), dim) float32, of unit length unless `normalize=False`. Results of one text in different
            batches agree to about 1e-6 in float32.

        Raises:
            EmptyTextError: a text is blank; the message names its index.
            PromptError: not a string, NUL, lone surrogate.
            ContextOverflowError: a text is longer than the window.
        """
        return self._embed(texts, "Query", instruction=instruction, truncate=truncate, progress=progress)

    def embed_documents(
        self, texts: Sequence[str], *, instruction: str = "", truncate: bool = False, progress: bool | None = None
    ) -> Vectors:
        """Embed documents; for retrieval GRIT gives them no instruction. Otherwise like `embed_queries`.

        With `caching="doc"` (or `"query-doc"`, `"doc-query"`) the keys and values of the same pass are kept, so that
        answers from these documents start from them.
        """
        return self._embed(texts, "Document", instruction=instruction, truncate=truncate, progress=progress)

    async def aembed_queries(self, texts: Sequence[str], *, instruction: str = "", truncate: bool = False) -> Vectors:
        """Embed queries without blocking the event loop; cancelling the task stops the work."""
        return await self._aembed(texts, "Query", instruction, truncate)

    async def aembed_documents(self, texts: Sequence[str], *, instruction: str = "", truncate: bool = False) -> Vectors:
        """Embed documents without blocking the event loop; cancelling the task stops the work."""
        return await self._aembed(texts, "Document", instruction, truncate)

    # Generation

    def generate(
        self, messages: Messages, documents: Sequence[str] = (), **options: Unpack[GenerationOptions]
    ) -> Generation:
        """Generate the assistant's next turn; arguments and errors are those of `stream`."""
        return self.stream(messages, documents, **options).result()

    async def agenerate(
        self, messages: Messages, documents: Sequence[str] = (), **options: Unpack[GenerationOptions]
    ) -> Generation:
        """Generate without blocking the event loop; cancelling the task stops the work."""
        return await (await self.astream(messages, documents, **options)).aresult()

    def stream(
        self, messages: Messages, documents: Sequence[str] = (), **options: Unpack[GenerationOptions]
    ) -> GenerationStream:
        """Start generating and return a stream of chunks; closing it stops the work.

        Args:
            messages: a string (one user turn), or `Message` objects or mappings with `role` and `content`.
            documents: texts to answer from, in the order and words of the GRIT paper; they stand in front of the
                conversation.
            **options: see `GenerationOptions`.

        Raises:
            PromptError: messages or documents that cannot become a prompt, or documents without a word to quote.
            ContextOverflowError: prompt and `max_new_tokens` exceed the window.
            OptionError: a caching mode that does not exist, or a quote without any document.
            CacheError: a mode that moves documents, for a model whose RoPE does not allow it.
        """
        asked = time.perf_counter()
        decoding = options.get("decoding") or Decoding()
        prompt = self._prompt(messages, documents, options)
        check_quoting(prompt, decoding)
        plan = generation_plan(self.checkpoint, prompt, max_new_tokens=decoding.max_new_tokens)
        spans = self._spans(prompt, decoding)
        engine = self._loaded()
        reuse = self._cache(engine).reuse(plan, prompt.caching)
        return GenerationStream(engine.scheduler.generate(reuse, decoding, asked=asked, spans=spans), engine)

    async def astream(
        self, messages: Messages, documents: Sequence[str] = (), **options: Unpack[GenerationOptions]
    ) -> GenerationStream:
        """Start generating without blocking the event loop, not even to load the weights or to read the store."""
        return await asyncio.to_thread(partial(self.stream, messages, documents, **options))

    # Reranking

    def rerank(
        self,
        query: str,
        passages: Sequence[str],
        *,
        top_n: int | None = None,
        passage_vectors: Vectors | None = None,
        progress: bool | None = None,
        **options: Unpack[RerankingOptions],
    ) -> list[Ranked]:
        """Put passages in the order in which they answer a query, the best first; equal ones stay as they were.

        Args:
            query: what is asked.
            passages: what may answer it. Equal ones are judged once; a blank one comes last.
            top_n: return only so many of the best; by default all.
            passage_vectors: of `method="embedding"` and `cosine`, vectors of the passages that are there already,
                (passages, dim).
            progress: show a bar if it takes more than two seconds; `None` shows it on a terminal only.
            **options: see `Reranking`.

        Raises:
            PromptError: the query is blank (`EmptyTextError`) or leaves no room (`ContextOverflowError`); a passage is
                not a string, or has NUL or a lone surrogate, and the message names its index.
            OptionError: an option's value, or what the model or its tokenizer cannot do.
            RerankError: the model's scores are not numbers.
        """
        settings = Reranking(**options)
        return rerank(self, query, passages, settings, top_n=top_n, vectors=passage_vectors, progress=progress)

    async def arerank(
        self,
        query: str,
        passages: Sequence[str],
        *,
        top_n: int | None = None,
        passage_vectors: Vectors | None = None,
        **options: Unpack[RerankingOptions],
    ) -> list[Ranked]:
        """Rerank without blocking the event loop; cancelling the task stops the work. Otherwise like `rerank`."""
        call = partial(self.rerank, query, passages, top_n=top_n, passage_vectors=passage_vectors, progress=False)
        return await in_thread(partial(call, **options))

    # Documents

    def remember_documents(self, documents: Sequence[str]) -> None:
        """Note documents that were retrieved; where a later prompt holds one verbatim, it is a block of the KV cache.

        The last 100 are remembered, for all objects that share these weights.
        """
        self._loaded().recent.add(documents)

    def prefetch(self, documents: Sequence[str]) -> None:
        """Bring what is stored of documents from disk into memory, in the background.

        Raises:
            PromptError: a document that cannot become a prompt.
            ContextOverflowError: documents that do not fit into the window together.
        """
        if not documents or not MODES[self.caching].keeps_documents:
            return
        plan = generation_plan(self.checkpoint, self._about(documents), max_new_tokens=1)
        self._cache(self._loaded()).prefetch(plan)

    def stored(self, documents: Sequence[str]) -> list[bool]:
        """Return for each document whether answers that begin with it start from stored keys and values.

        Raises:
            PromptError: a document that cannot become a prompt.
            ContextOverflowError: a document longer than the window.
        """
        if not MODES[self.caching].keeps_documents:
            return [False] * len(documents)
        plans = [generation_plan(self.checkpoint, self._about([text]), max_new_tokens=1) for text in documents]
        return self._cache(self._loaded()).stored(plans)

    def prefer_stored(self, documents: Sequence[str], scores: Sequence[float], *, margin: float) -> list[int]:
        """Return the order of retrieved documents in which stored ones win near ties, as places in the list.

        A document whose keys and values are stored stands before others that score at most `margin` better. An order
        that is not that of the scores, such as a fusion's, stays as it is; so does what the model cannot read.
        """
        places = list(range(len(documents)))
        ranked = all(left >= right for left, right in pairwise(scores))
        if not margin or not ranked:
            return places
        worth = [score + margin * self._is_stored(text) for text, score in zip(documents, scores, strict=True)]
        return sorted(places, key=lambda place: -worth[place])

    def cache_documents(self, documents: Sequence[str], *, progress: bool | None = None) -> CacheReport:
        """Read documents now, each by itself, so that answers from one start from its keys and values.

        In the modes `"doc"`, `"query-doc"` and `"doc-query"`, `embed_documents` does so in the same pass. What is
        stored already is not read again. In the modes `"off"` and `"query"` documents have no blocks: nothing is done.

        Raises:
            PromptError: a document that cannot become a prompt.
            ContextOverflowError: a document longer than the window.
        """
        wanted = documents if MODES[self.caching].keeps_documents else []
        plans = [generation_plan(self.checkpoint, self._about([text]), max_new_tokens=1) for text in wanted]
        engine = self._loaded()
        cache = self._cache(engine)
        shown = progress_bar(plans, desc="Caching", unit="document", shown=progress)
        reads = (wait(engine.scheduler.read(cache.reuse(plan, self.caching))) for plan in shown)
        return total_report(self.caching, [read.report() for read in reads])

    def count_tokens(self, text: str) -> int:
        """Return how many tokens `text` takes inside a prompt; reads no weights."""
        return self.checkpoint.tokenizer.count(check_characters(text, "The text"))

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of `text` inside a prompt; reads no weights."""
        return self.checkpoint.tokenizer.encode_texts([check_characters(text, "The text")])[0] if text else []

    def count_message_tokens(
        self, messages: Messages, documents: Sequence[str] = (), *, caching: Caching | None = None
    ) -> int:
        """Return how many tokens the whole prompt of `messages` and `documents` has; reads no weights."""
        prompt = Prompt(messages=messages, documents=documents, caching=caching or self.caching)
        return count_prompt_tokens(self.checkpoint, prompt)

    def _is_stored(self, document: str) -> bool:
        try:
            return self.stored([document])[0]
        except PromptError:
            return False

    def _cache(self, engine: Engine) -> BlockCache:
        store = self.kv_store if self.kv_store is not None else engine.memory
        return BlockCache(engine, store, self.settings.cache_policy, self.load_options.quantization_key())

    def _prompt(self, messages: Messages, documents: Sequence[str], options: GenerationOptions) -> Prompt:
        engine = self._source.loaded
        recent = [] if engine is None else engine.recent.texts()
        return Prompt(
            messages=messages,
            documents=documents,
            known_documents=[*options.get("known_documents", ()), *recent],
            caching=options.get("caching") or self.caching,
            query_instruction=options.get("query_instruction", ""),
            quotable=options.get("quotable"),
        )

    def _spans(self, prompt: Prompt, decoding: Decoding) -> Spans | None:
        """Return what the answer may quote; `None` if it is free. Picking sentences embeds them, and waits for it."""
        quoting = decoding.quoting
        if quoting is None:
            return None
        regions = quotable_regions(prompt)
        if quoting.method == "sentences" and not quoting.sentences:
            regions = all_runs(prompt.documents, regions, quoting.neighbours)
        elif quoting.sentences:
            regions = best_regions(
                _Unkept(self),
                last_question(prompt.messages),
                prompt.documents,
                regions,
                limit=quoting.sentences,
                length=quoting.neighbours,
                instruction=prompt.query_instruction,
            )
        return quotable_spans(self.checkpoint, prompt, decoding, regions)

    def _about(self, documents: Sequence[str]) -> Prompt:
        """Return a prompt that begins with `documents` as every question about them does in this object's mode."""
        caching: Caching = "doc" if MODES[self.caching].embeds_documents else "prefix"
        return Prompt(messages="?", documents=documents, caching=caching)

    def _keeper(self, engine: Engine, items: Sequence[EncoderInput], kind: str, instruction: str) -> Keep | None:
        """Return what keeps the blocks of an embedding pass, if answers in this mode can start from them."""
        if kind == "Query":
            wanted = MODES[self.caching].embeds_query
        else:
            wanted = MODES[self.caching].embeds_documents and not instruction
        return self._cache(engine).keeper(items, self.caching, document=kind == "Document") if wanted else None

    def _embed(
        self,
        texts: Sequence[str],
        kind: str,
        *,
        instruction: str = "",
        truncate: bool = False,
        progress: bool | None = None,
        keep_blocks: bool = True,
    ) -> Vectors:
        inputs = embedding_inputs(self.checkpoint, texts, kind, instruction=instruction, truncate=truncate)
        if not inputs:
            return np.zeros((0, self.dim), dtype=np.float32)
        engine = self._loaded()
        keep = self._keeper(engine, inputs, kind, instruction) if keep_blocks else None
        with progress_bar(total=len(inputs), desc="Embedding", unit="text", shown=progress) as bar:
            future = engine.scheduler.encode(inputs, self.pooling, on_progress=bar.update, keep=keep)
            return self._finish(wait(future))

    async def _aembed(self, texts: Sequence[str], kind: str, instruction: str, truncate: bool) -> Vectors:
        prepare = partial(embedding_inputs, instruction=instruction, truncate=truncate)
        inputs = await asyncio.to_thread(prepare, self.checkpoint, texts, kind)
        if not inputs:
            return np.zeros((0, self.dim), dtype=np.float32)
        engine = await asyncio.to_thread(self._loaded)
        keep = self._keeper(engine, inputs, kind, instruction)
        return self._finish(await asyncio.wrap_future(engine.scheduler.encode(inputs, self.pooling, keep=keep)))

    def _finish(self, vectors: Tensor) -> Vectors:
        """Cut and normalise pooled states, (n, dim) float32."""
        if not bool(torch.isfinite(vectors).all()):
            raise GritError(
                "The model gave an embedding that is not finite in its precision. Load it with dtype='float32'."
            )
        vectors = vectors[:, : self.settings.truncate_dim]
        if self.settings.normalize:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        return np.ascontiguousarray(vectors.numpy())


@dataclass(frozen=True, slots=True)
class _Unkept:
    """A model's embeddings of texts that nobody will ask about: no keys and values are kept."""

    grit: GritLM

    def embed_queries(self, texts: Sequence[str], *, instruction: str = "") -> Vectors:
        return self.grit._embed(texts, "Query", instruction=instruction, progress=False, keep_blocks=False)

    def embed_documents(self, texts: Sequence[str], *, truncate: bool = False) -> Vectors:
        return self.grit._embed(texts, "Document", truncate=truncate, progress=False, keep_blocks=False)
