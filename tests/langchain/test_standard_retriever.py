"""langchain-tests' retriever suite, subclassed without overrides."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_helpers import documents
from langchain_tests.integration_tests import RetrieversIntegrationTests

from grit_integrations import GritLM
from grit_integrations.langchain import GritEmbeddings, GritRetriever


class TestRetrieversIntegration(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _store(self, tiny: GritLM) -> None:
        self.store = InMemoryVectorStore.from_documents(documents("suite"), GritEmbeddings(model=tiny))

    @property
    def retriever_constructor(self) -> type[GritRetriever]:
        return GritRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"vectorstore": self.store}

    @property
    def retriever_query_example(self) -> str:
        return "What pumps blood?"
