"""Conformance suites for rerankers: what whoever puts one into a chain relies on.

Subclass the suite of your framework in a test file, say how the reranker is made, and run pytest:

```python
from grit_integrations.testing import LangChainRerankerSuite

class TestMyReranker(LangChainRerankerSuite):
    def compressor(self, top_n):
        return MyReranker(top_n=top_n)
```

`LlamaIndexRerankerSuite` does the same for node postprocessors, `RerankerSuite` for rerankers of no framework.
`run_conformance` runs a suite without pytest and returns what came of each case.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from grit_integrations.testing.reranking import CaseResult, Passage, RerankerSuite, run_conformance

if TYPE_CHECKING:
    from grit_integrations.testing.langchain import LangChainRerankerSuite
    from grit_integrations.testing.llama_index import LlamaIndexRerankerSuite

__all__ = [
    "CaseResult",
    "LangChainRerankerSuite",
    "LlamaIndexRerankerSuite",
    "Passage",
    "RerankerSuite",
    "run_conformance",
]

# Each framework's suite: its module, what it imports, and the package and extra that bring it.
_SUITES = {
    "LangChainRerankerSuite": ("langchain", "langchain_core", "langchain-core", "langchain"),
    "LlamaIndexRerankerSuite": ("llama_index", "llama_index", "llama-index-core", "llama-index"),
}


def __getattr__(name: str) -> object:
    """Import a framework's suite when it is asked for."""
    if name not in _SUITES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, imported, package, extra = _SUITES[name]
    try:
        return getattr(import_module(f"{__name__}.{module}"), name)
    except ModuleNotFoundError as error:
        if error.name not in (imported, f"{imported}.core"):  # a broken install shows its true cause
            raise
        from grit_integrations.errors import MissingExtraError

        raise MissingExtraError(package, extra) from error
