"""langchain-tests' embedding suites, subclassed without overrides."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from grit_integrations import GritLM
from grit_integrations.langchain import GritEmbeddings


class _Grit:
    @pytest.fixture(autouse=True)
    def _checkpoint(self, tiny: GritLM) -> None:
        self.source = tiny.source  # the fixture holds the weights, so every test's own object shares them

    @property
    def embeddings_class(self) -> type[GritEmbeddings]:
        return GritEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": self.source, "query_instruction": "Given a question, retrieve passages that answer it"}


class TestEmbeddingsUnit(_Grit, EmbeddingsUnitTests):
    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"GRIT_MODEL": "some/model", "GRIT_DEVICE": "cpu"}, {}, {"model": "some/model", "device": "cpu"}


class TestEmbeddingsIntegration(_Grit, EmbeddingsIntegrationTests):
    pass
