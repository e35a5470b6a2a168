"""GritLM: the one object. It turns calls into prompts, hands them to the engine's scheduler, and shapes the results."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, TypedDict, Unpack

from grit_integrations.engine.block_cache import total_report
from grit_integrations.engine.calls import in_thread, wait
from grit_integrations.engine.generate_job import GenerateJob
from grit_integrations.engine.read_job import ReadJob
from grit_integrations.engine.streaming import GenerationStream
from grit_integrations.engine.vectors import Embedding, aembed, embed
from grit_integrations.errors import OptionError, PromptError
from grit_integrations.handle import ModelHandle
from grit_integrations.options import MODES, Decoding, Reranking, check_caching
from grit_integrations.progress import progress_bar
from grit_integrations.prompts.formats import as_list, check_characters
from grit_integrations.prompts.requests import Prompt, document_plan, prompt_of
from grit_integrations.quoting.request import check_quotable, quoting_job
from grit_integrations.reranking.rerank import rerank

if TYPE_CHECKING:
    from grit_integrations.engine.generate_job import ChunksJob
    from grit_integrations.engine.session import Session
    from grit_integrations.options import Caching, RerankingOptions
    from grit_integrations.prompts.formats import Messages
    from grit_integrations.prompts.plan import Plan
    from grit_integrations.results import CacheReport, Generation, Ranked, Vectors


class PromptOptions(TypedDict, total=False):
    """Options of a prompt, all of them optional.

    Attributes:
        caching: another mode than the object's.
        known_documents: texts that may stand verbatim in the messages; where one does, it is a block of the KV cache.
            Documents given to `remember_documents` are known anyway, except in `"doc"` mode, where a block of its own
            is read differently: there an answer depends on its own call alone.
        query_instruction: what the question was embedded under, by default the model's own; used by the `query` modes
            of caching, and by quoting that picks sentences.
        quotable: of each document, where the part begins and ends that may be quoted, in characters; by default all.
    """

    caching: Caching | None
    known_documents: Sequence[str]
    query_instruction: str | None
    quotable: Sequence[tuple[int, int]] | None


class GenerationOptions(PromptOptions, total=False):
    """Options of one generation, all of them optional.

    Attributes:
        decoding: how tokens are chosen and when they end.
    """

    decoding: Decoding | None


class GritLM(ModelHandle):
    """One GRIT model that embeds and generates from a single set of weights.

    Constructing one costs nothing: the checkpoint is opened and loaded at first use, or at once by
    `GritLM.from_pretrained`. Objects with equal arguments share weights and worker thread within a process. All
    methods may be called from any thread; the `a...` methods never block their event loop.

    Args:
        source: directory in the Hugging Face layout, hub id, or `"grit-mini"` for the bundled model.
        revision: branch, tag or commit of a hub repository.
        gguf_file: the weights, by the name of a GGUF file in that directory or repository; de-quantised once.
        adapter: directory or hub id of a PEFT adapter (LoRA) that is merged into the weights.
        device: such as `"cpu"` or `"cuda:1"`; by default the best one here.
        dtype: `"auto"` takes the checkpoint's precision, or float32 on a CPU that lacks it natively.
        attn_implementation: transformers' attention kernel; by default its `"sdpa"` without copies of the cache.
        quantization_config: a transformers quantisation config.
        device_map: transformers' placement over several devices.
        local_files_only: never ask the hub.
        embedding_head: safetensors file with a projection applied before pooling.
        pooling: `"mean"`, `"weightedmean"`, `"lasttoken"` or `"cls"`; by default what the checkpoint says, else mean.
        normalize: return vectors of unit length.
        truncate_dim: keep this many leading dimensions of each vector (before normalising).
        caching: what of a prompt is read once and kept, unless a call says otherwise; `docs/caching.md` explains the
            modes. `"prefix"` changes no answer; with `"doc"`, `embed_documents` keeps what it reads.
        kv_store: where it is kept; by default in 512 MB of main memory that all objects of these weights share.
        cache_policy: which blocks are kept on disk, and when reading one back pays.
        doc_blocks: how documents are read in `"doc"` mode, for models that were not trained to answer from blocks.

    Example:
        >>> from grit_integrations import GritLM
        >>> grit = GritLM.bundled()
        >>> grit.embed_documents(["The heart pumps blood.", "Stars shine by fusion."]).shape[0]
        2
    """

    # Embedding

    def embed_queries(
        self,
        texts: Sequence[str],
        *,
        instruction: str | None = None,
        truncate: bool = False,
        progress: bool | None = None,
    ) -> Vectors:
        """Embed queries under a task instruction.

        Args:
            texts: an empty list gives an empty result.
            instruction: what the query is for, such as `"Given a question, retrieve passages that answer it"`; `None`
                takes the model's own (`grit_config.json`), of which GritLM has none, and `""` is none.
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
        how = Embedding(side="Query", instruction=instruction, truncate=truncate)
        return embed(self._session(), texts, how, progress=progress)

    def embed_documents(
        self,
        texts: Sequence[str],
        *,
        instruction: str | None = None,
        truncate: bool = False,
        progress: bool | None = None,
    ) -> Vectors:
        """Embed documents; for retrieval GRIT gives them no instruction. Otherwise like `embed_queries`.

        With `caching="doc"` (or `"query-doc"`, `"doc-query"`) the keys and values of the same pass are kept, so that
        answers from these documents start from them.
        """
        how = Embedding(side="Document", instruction=instruction, truncate=truncate)
        return embed(self._session(), texts, how, progress=progress)

    async def aembed_queries(
        self, texts: Sequence[str], *, instruction: str | None = None, truncate: bool = False
    ) -> Vectors:
        """Embed queries without blocking the event loop; cancelling the task stops the work."""
        return await aembed(self._session(), texts, Embedding(side="Query", instruction=instruction, truncate=truncate))

    async def aembed_documents(
        self, texts: Sequence[str], *, instruction: str | None = None, truncate: bool = False
    ) -> Vectors:
        """Embed documents without blocking the event loop; cancelling the task stops the work."""
        return await aembed(
            self._session(), texts, Embedding(side="Document", instruction=instruction, truncate=truncate)
        )

    # Generation

    def prompt(
        self, messages: Messages | Prompt, documents: Sequence[str] = (), **options: Unpack[PromptOptions]
    ) -> Prompt:
        """Return a checked prompt, which `generate`, `stream` and their async forms take in place of messages.

        It is parsed and planned once, however often it is asked about: `len(prompt)` counts its tokens, and
        `prompt.missing(max_new_tokens)` tells how many the window lacks. Reads no weights.

        Raises:
            PromptError: messages or documents that cannot become a prompt.
            OptionError: a caching mode that does not exist, or documents or options beside a prompt.

        Example:
            >>> from grit_integrations import GritLM
            >>> grit = GritLM("grit-mini")
            >>> prompt = grit.prompt("What pumps blood?", ["The heart pumps blood."])
            >>> prompt.missing(max_new_tokens=16)
            0
        """
        if isinstance(messages, Prompt):
            if documents or any(value is not None for value in options.values()):
                raise OptionError(
                    "Documents or options were given beside a prompt, which has its own. Give them to prompt()."
                )
            return messages
        for name in options:
            if name not in PromptOptions.__annotations__:
                raise OptionError.unknown(name, [*PromptOptions.__annotations__, "decoding"])
        caching = check_caching(options.get("caching") or self.caching)
        return prompt_of(
            self.checkpoint.tokenizer,
            self.window,
            messages,
            documents,
            caching=caching,
            known=[*as_list(options.get("known_documents", ()), "documents"), *self._remembered(caching)],
            query_instruction=options.get("query_instruction"),
            doc_blocks=self.settings.doc_blocks,
            quotable=options.get("quotable"),
        )

    def generate(
        self, messages: Messages | Prompt, documents: Sequence[str] = (), **options: Unpack[GenerationOptions]
    ) -> Generation:
        """Generate the assistant's next turn; arguments and errors are those of `stream`."""
        return self.stream(messages, documents, **options).result()

    async def agenerate(
        self, messages: Messages | Prompt, documents: Sequence[str] = (), **options: Unpack[GenerationOptions]
    ) -> Generation:
        """Generate without blocking the event loop; cancelling the task stops the work."""
        return await (await self.astream(messages, documents, **options)).aresult()

    def stream(
        self,
        messages: Messages | Prompt,
        documents: Sequence[str] = (),
        *,
        decoding: Decoding | None = None,
        **options: Unpack[PromptOptions],
    ) -> GenerationStream:
        """Start generating and return a stream of chunks; closing it stops the work.

        Args:
            messages: a string (one user turn), or `Message` objects or mappings with `role` and `content`; or a
                `prompt`, which holds everything below but `decoding`.
            documents: texts to answer from, in the order and words of the GRIT paper; they stand in front of the
                conversation.
            decoding: how tokens are chosen and when they end; by default `Decoding()`.
            **options: see `PromptOptions`.

        Raises:
            PromptError: messages or documents that cannot become a prompt, or documents without a word to quote.
            ContextOverflowError: prompt and `max_new_tokens` exceed the window.
            OptionError: a caching mode that does not exist, or a quote without any document.
            CacheError: a mode that moves documents, for a model whose RoPE does not allow it.
        """
        asked = time.perf_counter()
        decoding = decoding or Decoding()
        prompt = self.prompt(messages, documents, **options)
        if decoding.quoting is not None:
            check_quotable(prompt)
        prompt.check_fits(decoding.max_new_tokens)
        session = self._session()
        job: ChunksJob
        if decoding.quoting is not None:
            job = quoting_job(session, prompt, decoding, decoding.quoting, asked=asked)
        else:
            reuse = session.cache.reuse(prompt.plan, prompt.caching)
            job = GenerateJob(session.engine.decoder, reuse, decoding, asked=asked)
        return GenerationStream(session.engine.scheduler.submit(job).channel, session.engine)

    async def astream(
        self, messages: Messages | Prompt, documents: Sequence[str] = (), **options: Unpack[GenerationOptions]
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
            top_n: return at most this many of the best; by default all.
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
        return rerank(
            self._session(), query, passages, settings, top_n=top_n, vectors=passage_vectors, progress=progress
        )

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

        The last 100 are remembered, for all objects that share these weights. `"doc"` mode takes none of them: what a
        prompt's tokens see of each other would hang on what somebody else retrieved. Give it `documents`.

        Raises:
            PromptError: one string, or a document that is no text.
        """
        given = as_list(documents, "documents")
        texts = [check_characters(text, f"Document {index}") for index, text in enumerate(given)]
        self._loaded().recent.add(texts)

    def prefetch(self, documents: Sequence[str]) -> None:
        """Bring what is stored of documents from disk into memory, in the background.

        Raises:
            PromptError: a document that cannot become a prompt.
            ContextOverflowError: documents that do not fit into the window together.
        """
        given = as_list(documents, "documents")
        if given and MODES[self.caching].keeps_documents:
            session = self._session()
            session.cache.prefetch(self._document_plan(session, given))

    def stored(self, documents: Sequence[str]) -> list[bool]:
        """Return for each document whether answers that begin with it start from stored keys and values.

        Raises:
            PromptError: a document that cannot become a prompt.
            ContextOverflowError: a document longer than the window.
        """
        given = as_list(documents, "documents")
        if not MODES[self.caching].keeps_documents:
            return [False] * len(given)
        session = self._session()
        return session.cache.stored(self._document_plans(session, given))

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

        In the modes `"doc"`, `"query-doc"` and `"doc-query"`, `embed_documents` does so in the same pass, unless
        `doc_blocks` are causal. What is stored is not read again. In the modes `"off"` and `"query"` nothing is done.

        Raises:
            PromptError: a document that cannot become a prompt.
            ContextOverflowError: a document longer than the window.
        """
        session, caching, given = self._session(), self.caching, as_list(documents, "documents")
        plans = self._document_plans(session, given) if MODES[caching].keeps_documents else []
        engine, cache = session.engine, session.cache
        shown = progress_bar(plans, desc="Caching", unit="document", shown=progress)
        jobs = (ReadJob(engine.prefill, cache.reuse(plan, caching)) for plan in shown)
        reads = [wait(engine.scheduler.submit(job).future) for job in jobs]
        return total_report(caching, [read.report() for read in reads])

    def count_message_tokens(
        self, messages: Messages, documents: Sequence[str] = (), *, caching: Caching | None = None
    ) -> int:
        """Return how many tokens the whole prompt of `messages` and `documents` has; reads no weights."""
        return len(self.prompt(messages, documents, caching=caching))

    def _remembered(self, caching: Caching) -> list[str]:
        engine = self._source.loaded
        return [] if engine is None or MODES[caching].embeds_in_place else engine.recent.texts()

    def _is_stored(self, document: str) -> bool:
        try:
            return self.stored([document])[0]
        except PromptError:
            return False

    def _document_plans(self, session: Session, documents: Sequence[str]) -> list[Plan]:
        return [self._document_plan(session, [text]) for text in documents]

    def _document_plan(self, session: Session, documents: Sequence[str]) -> Plan:
        tokenizer, window, own = session.tokenizer, session.window, session.settings
        return document_plan(tokenizer, window, documents, caching=own.caching, doc_blocks=own.doc_blocks)
