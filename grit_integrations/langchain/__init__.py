"""LangChain adapters: embeddings, chat model, text completion, retrieval and reranking from one GritLM.

```python
from grit_integrations import GritLM
from grit_integrations.langchain import ChatGrit, GritEmbeddings

grit = GritLM.from_pretrained("GritLM/GritLM-7B")
embeddings, chat = GritEmbeddings(model=grit), ChatGrit(model=grit)  # one set of weights
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from grit_integrations.langchain.chat import ChatGrit
    from grit_integrations.langchain.embeddings import GritEmbeddings
    from grit_integrations.langchain.llm import GritLLM
    from grit_integrations.langchain.reranker import GritReranker
    from grit_integrations.langchain.retriever import GritRetriever
except ModuleNotFoundError as error:
    if error.name != "langchain_core":  # a broken install shows its true cause
        raise
    from grit_integrations.errors import MissingExtraError

    raise MissingExtraError("langchain-core", "langchain") from error

if TYPE_CHECKING:
    from grit_integrations.langchain.middleware import GritRAGMiddleware

__all__ = ["ChatGrit", "GritEmbeddings", "GritLLM", "GritRAGMiddleware", "GritReranker", "GritRetriever"]


def __getattr__(name: str) -> object:
    """Import the middleware when it is asked for: it needs LangChain's agents, the rest only its core."""
    if name != "GritRAGMiddleware":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from grit_integrations.langchain.middleware import GritRAGMiddleware

    return GritRAGMiddleware
