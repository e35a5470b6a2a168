"""langchain-tests' vector store suite over Chroma with GritEmbeddings, subclassed without overrides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_chroma import Chroma
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import VectorStoreIntegrationTests

from grit_integrations import GritLM
from grit_integrations.langchain import GritEmbeddings


class TestVectorStoreIntegration(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tiny: GritLM, tmp_path: Path) -> Iterator[VectorStore]:
        store = Chroma("standard", GritEmbeddings(model=tiny), persist_directory=str(tmp_path))
        yield store
        store.delete_collection()
