"""LangChain adapters: embeddings, chat model and text completion from one GritLM.

```python
from grit_integrations import GritLM
from grit_integrations.langchain import ChatGrit, GritEmbeddings

grit = GritLM.from_pretrained("GritLM/GritLM-7B")
embeddings, chat = GritEmbeddings(model=grit), ChatGrit(model=grit)  # one set of weights
```
"""

from __future__ import annotations

try:
    from grit_integrations.langchain.chat import ChatGrit
    from grit_integrations.langchain.embeddings import GritEmbeddings
    from grit_integrations.langchain.llm import GritLLM
except ModuleNotFoundError as error:
    if error.name != "langchain_core":  # a broken install shows its true cause
        raise
    from grit_integrations.errors import MissingExtraError

    raise MissingExtraError("langchain-core", "langchain") from error

__all__ = ["ChatGrit", "GritEmbeddings", "GritLLM"]
