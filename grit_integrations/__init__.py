"""One GritLM in every role: embeddings, chat model and more for LangChain, LlamaIndex and Chroma.

Importing this package loads neither torch nor a framework; the names below load what they need at first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grit_integrations.doc_blocks import DocBlocks
    from grit_integrations.engine.streaming import GenerationStream
    from grit_integrations.errors import (
        CacheCorruptError,
        CacheError,
        CacheFullError,
        CollectionMismatchError,
        ConfigError,
        ContextOverflowError,
        DataError,
        EmptyTextError,
        GritError,
        IngestError,
        MissingExtraError,
        ModelLoadError,
        OptionError,
        PromptError,
        RerankError,
        TrainingDivergedError,
    )
    from grit_integrations.handle import unload_all
    from grit_integrations.kv.policy import CachePolicy
    from grit_integrations.kv.store.store import KVCacheStore
    from grit_integrations.model import GritLM
    from grit_integrations.options import Decoding, Quoting, Reranking
    from grit_integrations.prompts.formats import Message
    from grit_integrations.results import (
        CacheReport,
        Generation,
        GenerationChunk,
        Quote,
        Ranked,
        Timings,
        TokenLogprob,
        Usage,
    )

__version__ = "0.1.0"

_HOMES = {
    "errors": (
        "CacheCorruptError",
        "CacheError",
        "CacheFullError",
        "CollectionMismatchError",
        "ConfigError",
        "ContextOverflowError",
        "DataError",
        "EmptyTextError",
        "GritError",
        "IngestError",
        "MissingExtraError",
        "ModelLoadError",
        "OptionError",
        "PromptError",
        "RerankError",
        "TrainingDivergedError",
    ),
    "handle": ("unload_all",),
    "kv.policy": ("CachePolicy",),
    "kv.store.store": ("KVCacheStore",),
    "model": ("GritLM",),
    "doc_blocks": ("DocBlocks",),
    "options": ("Decoding", "Quoting", "Reranking"),
    "prompts.formats": ("Message",),
    "results": (
        "CacheReport",
        "Generation",
        "GenerationChunk",
        "Quote",
        "Ranked",
        "Timings",
        "TokenLogprob",
        "Usage",
    ),
    "engine.streaming": ("GenerationStream",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CacheCorruptError",
    "CacheError",
    "CacheFullError",
    "CachePolicy",
    "CacheReport",
    "CollectionMismatchError",
    "ConfigError",
    "ContextOverflowError",
    "DataError",
    "Decoding",
    "DocBlocks",
    "EmptyTextError",
    "Generation",
    "GenerationChunk",
    "GenerationStream",
    "GritError",
    "GritLM",
    "IngestError",
    "KVCacheStore",
    "Message",
    "MissingExtraError",
    "ModelLoadError",
    "OptionError",
    "PromptError",
    "Quote",
    "Quoting",
    "Ranked",
    "RerankError",
    "Reranking",
    "Timings",
    "TokenLogprob",
    "TrainingDivergedError",
    "Usage",
    "unload_all",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
