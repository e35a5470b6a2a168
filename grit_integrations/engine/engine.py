"""Everything one set of weights needs to work, made once per process and shared by every object that asks for it."""

from __future__ import annotations

import threading
import weakref

from grit_integrations.engine.decoder import Decoder
from grit_integrations.engine.encoder import Encoder
from grit_integrations.engine.prefill import Prefill
from grit_integrations.engine.scheduler import Scheduler
from grit_integrations.kv.store.store import KVCacheStore
from grit_integrations.loading.checkpoint import Checkpoint
from grit_integrations.loading.weights import LoadOptions, Weights, load_weights
from grit_integrations.prompts.verbatim import RecentDocuments

_MEMORY = "512MB"


class Engine:
    """One set of loaded weights with its encoder view, its decoder and the thread that runs them.

    Attributes:
        checkpoint: the files.
        weights: the loaded model.
        scheduler: runs everything.
        memory: blocks of the KV cache in main memory, for models that were given no store.
        recent: documents that retrievers of this model returned last.
    """

    def __init__(self, checkpoint: Checkpoint, weights: Weights) -> None:
        self.checkpoint = checkpoint
        self.weights = weights
        tokenizer = checkpoint.tokenizer
        encoder = Encoder(weights, pad_id=tokenizer.eos_id)  # padding is masked, so any id serves
        self.prefill = Prefill(encoder)
        self.scheduler = Scheduler(encoder, self.prefill, Decoder(weights, tokenizer, self.prefill))
        self.memory = KVCacheStore(None, ram_bytes=_MEMORY)
        self.recent = RecentDocuments()


_engines: weakref.WeakValueDictionary[tuple[str, ...], Engine] = weakref.WeakValueDictionary()
_locks: dict[tuple[str, ...], threading.Lock] = {}
_registry_lock = threading.Lock()


def shared_engine(checkpoint: Checkpoint, options: LoadOptions, *, progress: bool | None = None) -> Engine:
    """Return the process's one engine for this checkpoint and these options, loading it if nobody holds it.

    Concurrent callers wait for a single load. The engine lives as long as somebody holds it.

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
            engine = Engine(checkpoint, load_weights(checkpoint, options, progress=progress))
            _engines[key] = engine
        return engine


def loaded_engine(checkpoint: Checkpoint, options: LoadOptions) -> Engine | None:
    """Return the engine of this checkpoint and these options if somebody in this process has loaded it."""
    return _engines.get(_key(checkpoint, options))


def _key(checkpoint: Checkpoint, options: LoadOptions) -> tuple[str, ...]:
    return (checkpoint.identity(), options.key())
