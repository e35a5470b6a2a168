"""Which model an object means, and its loaded weights: found, loaded at first use, shared, let go of."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

from grit_integrations.doc_blocks import DocBlocks
from grit_integrations.engine.engine import fingerprint_of, shared_engine, unload_engine, unload_engines
from grit_integrations.engine.model_settings import ModelSettings
from grit_integrations.engine.session import Session
from grit_integrations.errors import OptionError
from grit_integrations.kv.policy import CachePolicy
from grit_integrations.loading.sources import BUNDLED_NAME, SourceOptions, find_checkpoint
from grit_integrations.loading.weights import LoadOptions, head_digest
from grit_integrations.prompts.formats import check_characters

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from grit_integrations.engine.engine import Engine
    from grit_integrations.engine.model_settings import ModelSettingsOptions
    from grit_integrations.kv.store.store import KVCacheStore
    from grit_integrations.loading.checkpoint import Checkpoint
    from grit_integrations.options import Caching


class _Source:
    """A checkpoint by its name, and how it is loaded: what all handles made of one another share."""

    def __init__(self, name: str, files: SourceOptions, load_options: LoadOptions) -> None:
        self.name, self.files, self.load_options = name, files, load_options
        self._lock = threading.RLock()
        self._checkpoint: Checkpoint | None = None
        self._engine: Callable[[], Engine | None] = lambda: None  # weak: only the process holds weights

    @property
    def checkpoint(self) -> Checkpoint:
        with self._lock:
            if self._checkpoint is None or (self.loaded is None and self._checkpoint.changed):
                self._checkpoint = find_checkpoint(self.name, self.files)
            return self._checkpoint

    @property
    def outdated(self) -> bool:
        """Whether the checkpoint was written anew since it was opened."""
        return self._checkpoint is not None and self._checkpoint.changed

    @property
    def loaded(self) -> Engine | None:
        """The engine if it is in memory and has not been let go of."""
        engine = self._engine()
        return None if engine is None or engine.unloaded else engine

    def engine(self, progress: bool | None = None) -> Engine:
        with self._lock:
            engine = self.loaded
            if engine is None:
                engine = shared_engine(self.checkpoint, self.load_options, progress=progress)
                self._engine = weakref.ref(engine)
            return engine

    def unload(self) -> None:
        with self._lock:
            engine = self.loaded
            self._checkpoint = None  # the next load finds what lies there then
        if engine is not None:
            unload_engine(engine)


class ModelHandle:
    """A model by its name and options: what there is to know and to hold of it, before anything is asked of it.

    Frozen: `with_options` gives another handle on the same weights. Loaded weights stay in memory, whoever drops a
    handle, until `unload` or `grit_integrations.unload_all` is called.
    """

    _source: _Source
    _settings: ModelSettings

    def __init__(
        self,
        source: str | Path,
        *,
        revision: str | None = None,
        gguf_file: str | None = None,
        adapter: str | Path | None = None,
        device: str | None = None,
        dtype: str = "auto",
        attn_implementation: str | None = None,
        quantization_config: Any = None,
        device_map: Any = None,
        local_files_only: bool = False,
        embedding_head: str | Path | None = None,
        pooling: str | None = None,
        normalize: bool = True,
        truncate_dim: int | None = None,
        caching: Caching = "prefix",
        kv_store: KVCacheStore | None = None,
        cache_policy: CachePolicy | None = None,
        doc_blocks: DocBlocks | Mapping[str, Any] | None = None,
    ) -> None:
        settings = ModelSettings(
            pooling=pooling,
            normalize=normalize,
            truncate_dim=truncate_dim,
            caching=caching,
            kv_store=kv_store,
            cache_policy=CachePolicy() if cache_policy is None else cache_policy,
            doc_blocks=DocBlocks.of(doc_blocks),
        )
        if str(source) == BUNDLED_NAME and dtype == "auto":
            dtype = "float32"  # so small that rounding costs more than it saves: the same vectors on every machine
        load_options = LoadOptions(
            device=None if device is None else str(device),
            dtype=str(dtype),
            attn_implementation=attn_implementation,
            quantization_config=quantization_config,
            device_map=device_map,
            embedding_head=None if embedding_head is None else Path(embedding_head),
        )
        files = SourceOptions(revision, gguf_file, None if adapter is None else str(adapter), local_files_only)
        self._hold(_Source(str(source), files, load_options), settings)

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

    @classmethod
    def named(cls, source: str | Path, **options: Any) -> Self:
        """Return the process's one handle of these arguments, for whoever is made anew for every request.

        It costs a look into a table from the second time on, also where finding the checkpoint would ask the hub. A
        store belongs to its caller: with `kv_store` or `cache_policy` it is a new handle on the same weights.
        """
        own = {name: options.pop(name) for name in ("kv_store", "cache_policy") if options.get(name) is not None}
        key = (cls, str(source), repr(sorted(options.items())))
        with _named_lock:
            handle = _named.get(key)
            if handle is None or handle._source.outdated:
                handle = _named[key] = cls(source, **options)
        return cast("Self", handle.with_options(**own) if own else handle)

    def with_options(self, **changes: Unpack[ModelSettingsOptions]) -> Self:
        """Return another handle on the same weights, with some settings changed; this one stays as it is.

        Args:
            **changes: of the constructor's arguments those that no weights depend on: `pooling`, `normalize`,
                `truncate_dim`, `caching`, `kv_store`, `cache_policy`, `doc_blocks`.

        Raises:
            OptionError: another argument, or a value that is not possible.

        Example:
            >>> from grit_integrations import GritLM
            >>> grit = GritLM("grit-mini")
            >>> short = grit.with_options(truncate_dim=8)
            >>> short.embed_queries(["What pumps blood?"]).shape, short.lm is grit.lm
            ((1, 8), True)
        """
        known = [setting.name for setting in fields(ModelSettings)]
        for name in changes:
            if name not in known:
                raise OptionError.unknown(name, known)
        handle = object.__new__(type(self))
        handle._hold(self._source, replace(self._settings, **changes))
        return handle

    def load(self, *, progress: bool | None = None) -> Self:
        """Load the weights now instead of at first use, and return this object."""
        self._source.engine(progress)
        return self

    def unload(self) -> None:
        """Let go of the weights, for every object that shares them; they leave memory when what runs has ended.

        The next call of any of these objects finds the checkpoint and loads it again.
        """
        self._source.unload()

    @property
    def is_loaded(self) -> bool:
        """Whether the weights were loaded through this handle, or one that it was made of, and are still there."""
        return self._source.loaded is not None

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint's files; opening them reads no weights."""
        return self._source.checkpoint

    @property
    def source(self) -> str:
        """Directory, hub id or bundled name, as it was given."""
        return self._source.name

    @property
    def name(self) -> str:
        """What this model is called in traces and usage reports."""
        return self._source.name

    @property
    def revision(self) -> str | None:
        """Branch, tag or commit of a hub repository."""
        return self._source.files.revision

    @property
    def files(self) -> SourceOptions:
        """Which files of the source make the checkpoint."""
        return self._source.files

    @property
    def load_options(self) -> LoadOptions:
        """How the weights are put into memory."""
        return self._source.load_options

    @property
    def settings(self) -> ModelSettings:
        """What may differ between handles on these weights."""
        return self._settings

    @property
    def caching(self) -> Caching:
        """What of a prompt is read once and kept, unless a call says otherwise."""
        return self._settings.caching

    @property
    def kv_store(self) -> KVCacheStore | None:
        """Where it is kept; `None` is the main memory that all handles of these weights share."""
        return self._settings.kv_store

    @property
    def pooling(self) -> str:
        """How token states become one vector."""
        return self._session().pooling

    @property
    def query_instruction(self) -> str:
        """What queries are embedded under where no instruction is given."""
        return self.checkpoint.tokenizer.format.query_instruction

    @property
    def document_instruction(self) -> str:
        """What documents are embedded under where no instruction is given."""
        return self.checkpoint.tokenizer.format.document_instruction

    @property
    def dim(self) -> int:
        """Length of an embedding; loads the weights if there is a projection head."""
        return self._session().dim

    @property
    def window(self) -> int:
        """The most tokens that a prompt and its answer may have together."""
        return self.checkpoint.window

    @property
    def fingerprint(self) -> str:
        """A digest of weights, config, tokenizer and head; vectors of models with other fingerprints do not compare."""
        engine = self._source.loaded
        if engine is not None:
            return engine.fingerprint
        head = self.load_options.embedding_head
        return fingerprint_of(self.checkpoint, "" if head is None else head_digest(head))

    @property
    def lm(self) -> PreTrainedModel:
        """The loaded transformers model."""
        return self._loaded().weights.lm

    def count_tokens(self, text: str) -> int:
        """Return how many tokens `text` takes inside a prompt; reads no weights."""
        return self.checkpoint.tokenizer.count(check_characters(text, "The text"))

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of `text` inside a prompt; reads no weights."""
        return self.checkpoint.tokenizer.encode_texts([check_characters(text, "The text")])[0] if text else []

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
        return f"{type(self).__name__}({self.source!r}, {'loaded' if self.is_loaded else 'not loaded'})"

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(
            f"A GritLM is frozen; {name} cannot be set. with_options({name}=...) gives another handle."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments, not the weights: another process loads them for itself."""
        source = self._source
        return _unpickled, (type(self), (source.name, source.files, source.load_options), self._settings)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self  # frozen, so that one serves for all copies of an adapter

    def _hold(self, source: _Source, settings: ModelSettings) -> None:
        object.__setattr__(self, "_source", source)
        object.__setattr__(self, "_settings", settings)

    def _session(self) -> Session:
        source = self._source
        return Session(self._settings, source.load_options, lambda: source.checkpoint, source.engine)

    def _loaded(self) -> Engine:
        return self._source.engine()


_named: dict[tuple[object, ...], ModelHandle] = {}
_named_lock = threading.Lock()


def unload_all() -> None:
    """Let go of every model that this process has loaded; each is loaded again when it is next used."""
    with _named_lock:
        _named.clear()
    unload_engines()


def _unpickled(kind: type[ModelHandle], source: tuple[Any, ...], settings: ModelSettings) -> ModelHandle:
    handle = object.__new__(kind)
    handle._hold(_Source(*source), settings)
    return handle
