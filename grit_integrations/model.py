"""GritLM: the one object. It turns calls into prompts, hands them to the engine's scheduler, and shapes the results."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from grit_integrations.checkpoint import Checkpoint, digest_with_head, find_checkpoint
from grit_integrations.encoder import POOLINGS, EncoderInput, Pooling
from grit_integrations.engine import Engine, shared_engine
from grit_integrations.errors import ContextOverflowError, GritError, OptionError, PromptError
from grit_integrations.generation import Decoding, Generation
from grit_integrations.prompts import (
    Messages,
    as_messages,
    chat_prompt,
    check_characters,
    check_text,
    embedding_header,
)
from grit_integrations.streaming import GenerationStream
from grit_integrations.weights import LoadOptions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]

BUNDLED = Path(__file__).parent / "bundled" / "grit-mini"
BUNDLED_NAME = "grit-mini"
_BAR_DELAY = 2.0  # seconds before a progress bar appears


def default_source() -> str:
    """Return the model that adapters use when none is named: the environment's `GRIT_MODEL`, else the bundled one."""
    return os.environ.get("GRIT_MODEL") or BUNDLED_NAME


def default_device() -> str | None:
    """Return the environment's `GRIT_DEVICE`; `None` is the best device here."""
    return os.environ.get("GRIT_DEVICE") or None


class GritLM:
    """One GRIT model that embeds and generates from a single set of weights.

    Constructing one costs nothing: the checkpoint is opened and loaded at first use, or at once by
    `GritLM.from_pretrained`. Objects with equal arguments share weights and worker thread within a process. All
    methods may be called from any thread; the `a...` methods never block their event loop.

    Args:
        source: directory in the Hugging Face layout, hub id, or `"grit-mini"` for the bundled model.
        revision: branch, tag or commit of a hub repository.
        device: such as `"cpu"` or `"cuda:1"`; by default the best one here.
        dtype: `"auto"` takes the checkpoint's precision, or float32 on a CPU that lacks it natively.
        attn_implementation: transformers' attention kernel; `"sdpa"` by default.
        quantization_config: a transformers quantisation config.
        device_map: transformers' placement over several devices.
        local_files_only: never ask the hub.
        embedding_head: safetensors file with a projection applied before pooling.
        pooling: `"mean"`, `"weightedmean"`, `"lasttoken"` or `"cls"`; by default what the checkpoint says, else mean.
        normalize: return vectors of unit length.
        truncate_dim: keep only so many leading dimensions of each vector (before normalising).

    Example:
        >>> from grit_integrations import GritLM
        >>> grit = GritLM.bundled()
        >>> grit.embed_documents(["The heart pumps blood.", "Stars shine by fusion."]).shape[0]
        2
    """

    def __init__(
        self,
        source: str | Path,
        *,
        revision: str | None = None,
        device: str | None = None,
        dtype: str = "auto",
        attn_implementation: str | None = None,
        quantization_config: Any = None,
        device_map: Any = None,
        local_files_only: bool = False,
        embedding_head: str | Path | None = None,
        pooling: Pooling | None = None,
        normalize: bool = True,
        truncate_dim: int | None = None,
    ) -> None:
        if pooling is not None and pooling not in POOLINGS:
            raise OptionError(f"pooling={pooling!r} is unknown. Use one of {', '.join(POOLINGS)}.")
        if truncate_dim is not None and truncate_dim < 1:
            raise OptionError(f"truncate_dim={truncate_dim} is not possible. Give 1 or more, or None.")
        self.source = str(source)
        if self.source == BUNDLED_NAME and dtype == "auto":
            dtype = "float32"  # so small that rounding costs more than it saves: the same vectors on every machine
        self.revision = revision
        self.normalize = normalize
        self.truncate_dim = truncate_dim
        self.requested_pooling = pooling
        self._local_files_only = local_files_only
        self.load_options = LoadOptions(
            device=None if device is None else str(device),
            dtype=str(dtype),
            attn_implementation=attn_implementation,
            quantization_config=quantization_config,
            device_map=device_map,
            embedding_head=None if embedding_head is None else Path(embedding_head),
        )
        self._lock = threading.RLock()
        self._checkpoint: Checkpoint | None = None
        self._engine: Engine | None = None

    @classmethod
    def from_pretrained(cls, source: str | Path, *, progress: bool | None = None, **options: Any) -> GritLM:
        """Return a loaded model; the options are those of the constructor.

        Raises:
            ModelLoadError: the checkpoint, its tokenizer or the device cannot be used; the message names the cure.
        """
        return cls(source, **options).load(progress=progress)

    @classmethod
    def bundled(cls, **options: Any) -> GritLM:
        """Return grit-mini, the small model that ships with this package: no network, and a CPU is enough."""
        return cls.from_pretrained(BUNDLED_NAME, **options)

    def load(self, *, progress: bool | None = None) -> GritLM:
        """Load the weights now instead of at first use, and return this object."""
        with self._lock:
            if self._engine is None:
                self._engine = shared_engine(self.checkpoint, self.load_options, progress=progress)
        return self

    def unload(self) -> None:
        """Let go of the weights; they leave memory when no other object uses them. The next call loads them again."""
        with self._lock:
            self._engine = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def is_loaded(self) -> bool:
        """Whether this object holds loaded weights."""
        return self._engine is not None

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint's files; opening them reads no weights."""
        with self._lock:
            if self._checkpoint is None:
                self._checkpoint = self._find()
            return self._checkpoint

    @property
    def name(self) -> str:
        """What this model is called in traces and usage reports."""
        return self.source

    @property
    def dim(self) -> int:
        """Length of an embedding; loads the weights if there is a projection head."""
        if self.load_options.embedding_head is not None:
            full = self._loaded().weights.dim
        else:
            full = int(self.checkpoint.config["hidden_size"])
        return min(full, self.truncate_dim or full)

    @property
    def window(self) -> int:
        """The most tokens that a prompt and its answer may have together."""
        return self.checkpoint.window

    @property
    def pooling(self) -> Pooling:
        """How token states become one vector."""
        return self.requested_pooling or cast(Pooling, self.checkpoint.grit_config.get("pooling", "mean"))

    @property
    def fingerprint(self) -> str:
        """A digest of weights, config, tokenizer and head; vectors of models with other fingerprints do not compare."""
        head = self.load_options.embedding_head
        return self.checkpoint.fingerprint if head is None else digest_with_head(self.checkpoint.fingerprint, head)

    @property
    def lm(self) -> PreTrainedModel:
        """The loaded transformers model."""
        return self._loaded().weights.lm

    def describe(self) -> dict[str, object]:
        """Return what is loaded: architecture, device, precision, window, dimension, parameters, bytes, fingerprint."""
        weights = self._loaded().weights
        return {
            "model": self.name,
            "architecture": type(weights.lm).__name__,
            "device": str(weights.device),
            "dtype": str(weights.dtype).removeprefix("torch."),
            "window": self.window,
            "dim": self.dim,
            "pooling": self.pooling,
            "parameters": sum(parameter.numel() for parameter in weights.lm.parameters()),
            "bytes": weights.nbytes(),
            "fingerprint": self.fingerprint,
        }

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
        return self._embed(texts, "Query", instruction, truncate, progress)

    def embed_documents(
        self, texts: Sequence[str], *, instruction: str = "", truncate: bool = False, progress: bool | None = None
    ) -> Vectors:
        """Embed documents; for retrieval GRIT gives them no instruction. Otherwise like `embed_queries`."""
        return self._embed(texts, "Document", instruction, truncate, progress)

    async def aembed_queries(self, texts: Sequence[str], *, instruction: str = "", truncate: bool = False) -> Vectors:
        """Embed queries without blocking the event loop; cancelling the task stops the work."""
        return await self._aembed(texts, "Query", instruction, truncate)

    async def aembed_documents(self, texts: Sequence[str], *, instruction: str = "", truncate: bool = False) -> Vectors:
        """Embed documents without blocking the event loop; cancelling the task stops the work."""
        return await self._aembed(texts, "Document", instruction, truncate)

    # Generation

    def generate(self, messages: Messages, *, decoding: Decoding | None = None) -> Generation:
        """Generate the assistant's next turn.

        Args:
            messages: a string (one user turn), or `Message` objects or mappings with `role` and `content`.
            decoding: how tokens are chosen and when they end.

        Raises:
            PromptError: messages that cannot become a prompt.
            ContextOverflowError: prompt and `max_new_tokens` exceed the window.
        """
        return self.stream(messages, decoding=decoding).result()

    async def agenerate(self, messages: Messages, *, decoding: Decoding | None = None) -> Generation:
        """Generate without blocking the event loop; cancelling the task stops the work."""
        return await (await self.astream(messages, decoding=decoding)).aresult()

    def stream(self, messages: Messages, *, decoding: Decoding | None = None) -> GenerationStream:
        """Start generating and return a stream of chunks; closing it stops the work. Otherwise like `generate`."""
        decoding = decoding or Decoding()
        ids = self._generation_prompt(messages, decoding)
        engine = self._loaded()
        return GenerationStream(engine.scheduler.generate(ids, decoding), engine)

    async def astream(self, messages: Messages, *, decoding: Decoding | None = None) -> GenerationStream:
        """Start generating without blocking the event loop, not even to load the weights."""
        return await asyncio.to_thread(partial(self.stream, messages, decoding=decoding))

    def count_tokens(self, text: str) -> int:
        """Return how many tokens `text` takes inside a prompt; reads no weights."""
        return self.checkpoint.tokenizer.count(check_characters(text, "The text"))

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of `text` inside a prompt; reads no weights."""
        return self.checkpoint.tokenizer.encode_texts([check_characters(text, "The text")])[0] if text else []

    def count_message_tokens(self, messages: Messages) -> int:
        """Return how many tokens the whole generation prompt of `messages` has."""
        return len(self.checkpoint.tokenizer.encode(chat_prompt(messages)))

    def __repr__(self) -> str:
        return f"GritLM({self.source!r}, {'loaded' if self.is_loaded else 'not loaded'})"

    def __getstate__(self) -> dict[str, object]:
        """Pickle the arguments, not the weights: another process loads them for itself."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_checkpoint", "_engine")}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        self.__dict__.update(state)
        self._lock, self._checkpoint, self._engine = threading.RLock(), None, None

    def _find(self) -> Checkpoint:
        source = BUNDLED if self.source == BUNDLED_NAME else self.source
        return find_checkpoint(source, revision=self.revision, local_files_only=self._local_files_only)

    def _loaded(self) -> Engine:
        self.load()
        with self._lock:
            return self._engine or self.load()._loaded()

    def _embed(
        self, texts: Sequence[str], kind: str, instruction: str, truncate: bool, progress: bool | None
    ) -> Vectors:
        inputs = self._embedding_prompts(texts, kind, instruction, truncate)
        if not inputs:
            return np.zeros((0, self.dim), dtype=np.float32)
        engine = self._loaded()
        disable = None if progress is None else not progress
        with tqdm(total=len(inputs), desc="Embedding", unit="text", disable=disable, delay=_BAR_DELAY) as bar:
            future = engine.scheduler.encode(inputs, self.pooling, on_progress=bar.update)
            return self._finish(_wait(future))

    async def _aembed(self, texts: Sequence[str], kind: str, instruction: str, truncate: bool) -> Vectors:
        inputs = await asyncio.to_thread(self._embedding_prompts, texts, kind, instruction, truncate)
        if not inputs:
            return np.zeros((0, self.dim), dtype=np.float32)
        engine = await asyncio.to_thread(self._loaded)
        return self._finish(await asyncio.wrap_future(engine.scheduler.encode(inputs, self.pooling)))

    def _embedding_prompts(
        self, texts: Sequence[str], kind: str, instruction: str, truncate: bool
    ) -> list[EncoderInput]:
        """Check every text before any work is done, and return their token ids."""
        if isinstance(texts, str):
            raise PromptError("One string was given where a list of texts is wanted. Put it in a list: [text].")
        tokenizer = self.checkpoint.tokenizer
        header = tokenizer.encode(embedding_header(check_characters(instruction, "The instruction")))
        room = self.window - len(header)
        for index, text in enumerate(texts):
            check_text(text, f"{kind} {index}")
            if not truncate:
                tokenizer.check_length(text, room, f"{kind} {index}")
        encoded = tokenizer.encode_texts([tokenizer.cut(text, room) for text in texts])
        for index, ids in enumerate(encoded):
            if len(ids) > room:
                _report_overflow(f"{kind} {index}", len(ids), room, truncate)
        return [EncoderInput([*header, *ids[:room]], header=len(header)) for ids in encoded]

    def _finish(self, vectors: Tensor) -> Vectors:
        """Cut and normalise pooled states, (n, dim) float32."""
        if not bool(torch.isfinite(vectors).all()):
            raise GritError(
                "The model gave an embedding that is not finite in its precision. Load it with dtype='float32'."
            )
        vectors = vectors[:, : self.truncate_dim]
        if self.normalize:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        return np.ascontiguousarray(vectors.numpy())

    def _generation_prompt(self, messages: Messages, decoding: Decoding) -> list[int]:
        tokenizer, room = self.checkpoint.tokenizer, self.window - decoding.max_new_tokens
        if room <= 0:
            raise ContextOverflowError(
                f"max_new_tokens={decoding.max_new_tokens} leaves no room for a prompt in the model's window of "
                f"{self.window:,} tokens. Ask for fewer."
            )
        turns = as_messages(messages)
        for index, turn in enumerate(turns):
            tokenizer.check_length(turn.content, room, f"Message {index}")
        ids = tokenizer.encode(chat_prompt(turns))
        if len(ids) > room:
            raise ContextOverflowError(
                f"The prompt has {len(ids):,} tokens; {room:,} of the model's {self.window:,} are left beside "
                f"max_new_tokens={decoding.max_new_tokens}. Retrieve fewer documents, or ask for fewer tokens."
            )
        return ids


def _report_overflow(where: str, found: int, room: int, truncate: bool) -> None:
    if not truncate:
        raise ContextOverflowError(
            f"{where} has {found:,} tokens; {room:,} fit into the model's window beside the prompt. Split it into "
            "passages, or pass truncate=True."
        )
    logger.warning("%s was cut from at least %d to %d tokens.", where, found, room)


def _wait(future: Future[Tensor]) -> Tensor:
    """Wait for the worker; an interrupted caller takes its work back."""
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
