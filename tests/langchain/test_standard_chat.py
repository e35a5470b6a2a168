"""langchain-tests' chat suites, subclassed without overrides."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from grit_integrations import GritLM
from grit_integrations.langchain import ChatGrit


class _Grit:
    @pytest.fixture(autouse=True)
    def _checkpoint(self, tiny: GritLM, other: GritLM) -> None:
        self.source, self.other = tiny.source, other.source  # the fixtures hold the weights that every test shares

    @property
    def chat_model_class(self) -> type[ChatGrit]:
        return ChatGrit

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": self.source}

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {**super().standard_chat_model_params, "max_tokens": 8}

    @property
    def model_override_value(self) -> str:
        return self.other

    @property
    def enable_vcr_tests(self) -> bool:
        return True  # nothing is recorded: the model is in this process


class TestChatModelUnit(_Grit, ChatModelUnitTests):
    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"GRIT_MODEL": "some/model", "GRIT_DEVICE": "cpu"}, {}, {"model": "some/model", "device": "cpu"}


class TestChatModelIntegration(_Grit, ChatModelIntegrationTests):
    pass
