"""GritLM in LlamaIndex: embedding model and language model over one set of weights."""

from __future__ import annotations

try:
    import llama_index.core  # noqa: F401
except ImportError as error:
    if (error.name or "").split(".")[0] != "llama_index":
        raise  # llama-index-core is there and broken: show why
    from grit_integrations.errors import MissingExtraError

    raise MissingExtraError("llama-index-core", "llama-index") from error

from grit_integrations.llama_index.embeddings import GritEmbedding
from grit_integrations.llama_index.llm import GritLLM
from grit_integrations.llama_index.settings import install

__all__ = ["GritEmbedding", "GritLLM", "install"]
