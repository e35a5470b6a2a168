"""GritLM in LlamaIndex: embedding model, language model and reranker over one set of weights."""

from __future__ import annotations

try:
    import llama_index.core  # noqa: F401
except ImportError as error:
    if (error.name or "").split(".")[0] != "llama_index":
        raise  # llama-index-core is there and broken: show why
    from grit_integrations.errors import MissingExtraError

    raise MissingExtraError("llama-index-core", "llama-index") from error

from grit_integrations.llama_index.chat_engine import GritChatEngine
from grit_integrations.llama_index.embeddings import GritEmbedding
from grit_integrations.llama_index.events import KVCacheEvent
from grit_integrations.llama_index.llm import GritLLM
from grit_integrations.llama_index.query_engine import GritQueryEngine
from grit_integrations.llama_index.reranker import GritRerank
from grit_integrations.llama_index.retriever import GritRetriever
from grit_integrations.llama_index.settings import install
from grit_integrations.llama_index.synthesizer import GritSynthesizer

__all__ = [
    "GritChatEngine",
    "GritEmbedding",
    "GritLLM",
    "GritQueryEngine",
    "GritRerank",
    "GritRetriever",
    "GritSynthesizer",
    "KVCacheEvent",
    "install",
]
