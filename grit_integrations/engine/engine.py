"""Everything one set of weights needs to work, made once per process and shared by every object that asks for it."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

import torch

from grit_integrations.engine.decoder import Decoder
from grit_integrations.engine.encoder import Encoder
from grit_integrations.engine.live_state import LiveState
from grit_integrations.engine.prefill import Prefill
from grit_integrations.engine.scheduler import Scheduler
from grit_integrations.kv.store.store import KVCacheStore
from grit_integrations.loading.weights import load_weights
from grit_integrations.prompts.verbatim import RecentDocuments

if TYPE_CHECKING:
    from grit_integrations.loading.checkpoint import Checkpoint
    from grit_integrations.loading.weights import LoadOptions, Weights

_MEMORY = "512MB"


class Engine:
    """One set of loaded weights with its encoder view, its decoder and the thread that runs them.

    Once loaded, it stays in memory until `unload_engine` is called, however often callers come and go.

    Attributes:
        checkpoint: the files.
        weights: the loaded model.
        quantization: how the weights are quantised, as text.
        state: tells whether the weights are still those that were loaded.
        encoder: texts to vectors; `prefill` reads prompts, `decoder` answers them, each on the worker thread alone.
        scheduler: the worker thread.
        memory: blocks of the KV cache in main memory, for models that were given no store.
        recent: documents that retrievers of this model returned last.
    """

    def __init__(self, checkpoint: Checkpoint, weights: Weights, *, quantization: str = "") -> None:
        self.checkpoint = checkpoint
        self.weights = weights
        self.quantization = quantization
        self.state = LiveState(weights.lm)
        self._loaded_as = fingerprint_of(checkpoint, weights.head_digest)
        tokenizer = checkpoint.tokenizer
        pattern = tokenizer.format.embedding_pattern
        self.encoder = Encoder(weights, pad_id=tokenizer.eos_id, pattern=pattern)  # padding is masked: any id serves
        self.prefill = Prefill(self.encoder)
        self.decoder = Decoder(weights, tokenizer, self.prefill)
        self.scheduler = Scheduler()
        self.memory = KVCacheStore(None, ram_bytes=_MEMORY)
        self.recent = RecentDocuments()
        self.unloaded = False  # whether the process has let go of it; what runs on it ends first

    @property
    def fingerprint(self) -> str:
        """A digest of what was loaded and computes now: weights, adapters, config, tokenizer, head."""
        edits = self.state.edits
        return self._loaded_as if not edits else _digest(self._loaded_as, edits)


def fingerprint_of(checkpoint: Checkpoint, head_digest: str) -> str:
    """Return the fingerprint of a checkpoint under a projection head, whose digest is empty if there is none."""
    return _digest(checkpoint.fingerprint, head_digest) if head_digest else checkpoint.fingerprint


def _digest(*parts: str) -> str:
    return hashlib.blake2b("|".join(parts).encode(), digest_size=16).hexdigest()


_engines: dict[tuple[str, ...], Engine] = {}
_locks: dict[tuple[str, ...], threading.Lock] = {}
_registry_lock = threading.Lock()


def shared_engine(checkpoint: Checkpoint, options: LoadOptions, *, progress: bool | None = None) -> Engine:
    """Return the process's one engine for this checkpoint and these options, loading it if it is not in memory.

    Concurrent callers wait for a single load.

    Raises:
        ModelLoadError: the checkpoint cannot be loaded as asked.
    """
    key = _key(checkpoint, options)
    with _registry_lock:
        lock = _locks.setdefault(key, threading.Lock())
    with lock:
        engine = _engines.get(key)
        if engine is None:
            checkpoint.check()
            checkpoint.check_unchanged()
            weights = load_weights(checkpoint, options, progress=progress)
            engine = Engine(checkpoint, weights, quantization=options.quantization_key())
            _engines[key] = engine
        return engine


def unload_engine(engine: Engine) -> None:
    """Let go of an engine; it leaves memory when the last generation on it has ended."""
    engine.unloaded = True
    with _registry_lock:
        for key in [key for key, held in _engines.items() if held is engine]:
            del _engines[key]
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def unload_engines() -> None:
    """Let go of every engine of this process."""
    for engine in list(_engines.values()):
        unload_engine(engine)


def _key(checkpoint: Checkpoint, options: LoadOptions) -> tuple[str, ...]:
    return (checkpoint.identity, options.key())
