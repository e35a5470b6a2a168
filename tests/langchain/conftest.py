"""Fixtures of the LangChain tests, and the counts of the standard suites at the end of a run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_checkpoint
from langchain_helpers import renewed

from grit_integrations import GritLM
from grit_integrations.langchain import ChatGrit, GritLLM

SUITES = (
    "EmbeddingsUnit",
    "EmbeddingsIntegration",
    "VectorStoreIntegration",
    "RetrieversIntegration",
    "ChatModelUnit",
    "ChatModelIntegration",
)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many cases of each standard suite of langchain-tests passed."""
    counts = {suite: Counter[str]() for suite in SUITES}
    for outcome in ("passed", "skipped", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, ()):
            suite = report.nodeid.partition("::Test")[2].partition("::")[0]
            if "/langchain/test_standard_" in f"/{report.nodeid}" and suite in counts:
                counts[suite][outcome] += 1
    if not any(counts.values()):
        return
    terminalreporter.section("langchain-tests")
    for suite, count in counts.items():
        outcomes = ", ".join(f"{number} {outcome}" for outcome, number in count.items())
        terminalreporter.line(f"{suite:24} {outcomes or 'not run'}")
    chat = counts["ChatModelUnit"] + counts["ChatModelIntegration"]
    terminalreporter.line(f"{'chat, both suites':24} {chat['passed']} of {chat.total()} passed")


@pytest.fixture(scope="session")
def other_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second random model, which answers differently."""
    return write_checkpoint(tmp_path_factory.mktemp("other") / "GritLM-other", seed=1)


@pytest.fixture(scope="session")
def other(other_path: Path) -> GritLM:
    return GritLM.from_pretrained(other_path)


@pytest.fixture
def chat(tiny: GritLM) -> ChatGrit:
    return ChatGrit(model=tiny, max_tokens=8)


@pytest.fixture
def llm(tiny: GritLM) -> GritLLM:
    return GritLLM(model=tiny, max_tokens=8)


@pytest.fixture
def fresh(tiny: GritLM) -> GritLM:
    """The random model with an empty store of its own."""
    return renewed(tiny)
