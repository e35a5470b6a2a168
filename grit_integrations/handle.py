"""Which model an object means, and its loaded weights: found, loaded at first use, shared, let go of."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from typing_extensions import Self

from grit_integrations.engine.engine import Engine, shared_engine
from grit_integrations.errors import OptionError
from grit_integrations.kv.policy import CachePolicy
from grit_integrations.kv.store.store import KVCacheStore
from grit_integrations.loading.checkpoint import Checkpoint, digest_with_head, find_checkpoint
from grit_integrations.loading.weights import LoadOptions
from grit_integrations.options import POOLINGS, Caching, Pooling, check_caching

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BUNDLED = Path(__file__).parent / "bundled" / "grit-mini"
BUNDLED_NAME = "grit-mini"


def default_source() -> str:
    """Return the model that adapters use when none is named: the environment's `GRIT_MODEL`, else the bundled one."""
    return os.environ.get("GRIT_MODEL") or BUNDLED_NAME


def default_device() -> str | None:
    """Return the environment's `GRIT_DEVICE`; `None` is the best device here."""
    return os.environ.get("GRIT_DEVICE") or None


class ModelHandle:
    """A model by its name and options: what there is to know and to hold of it, before anything is asked of it."""

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
        caching: Caching = "prefix",
        kv_store: KVCacheStore | None = None,
        cache_policy: CachePolicy | None = None,
    ) -> None:
        check_caching(caching)
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
        self.caching = caching
        self.kv_store = kv_store
        self.cache_policy = cache_policy or CachePolicy()
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
    def from_pretrained(cls, source: str | Path, *, progress: bool | None = None, **options: Any) -> Self:
        """Return a loaded model; the options are those of the constructor.

        Raises:
            ModelLoadError: the checkpoint, its tokenizer or the device cannot be used; the message names the cure.
        """
        return cls(source, **options).load(progress=progress)

    @classmethod
    def bundled(cls, **options: Any) -> Self:
        """Return grit-mini, the small model that ships with this package: no network, and a CPU is enough."""
        return cls.from_pretrained(BUNDLED_NAME, **options)

    def load(self, *, progress: bool | None = None) -> Self:
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
