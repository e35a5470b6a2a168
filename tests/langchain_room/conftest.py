"""Fixtures of the LangChain tests, and the counts of the standard suites at the end of a run."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_checkpoint
from langchain_core.documents import Document

from grit_integrations import GritLM, KVCacheStore
from grit_integrations.generation import Caching
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
            if "/langchain_room/test_standard_" in f"/{report.nodeid}" and suite in counts:
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


def renewed(grit: GritLM, caching: Caching = "prefix") -> GritLM:
    """Return another object of the same weights that has read nothing yet."""
    return GritLM(grit.source, kv_store=KVCacheStore(None), caching=caching).load()


def documents(test: str) -> list[Document]:
    """Return three documents that no other test has."""
    themes = ["the heart pumps blood", "stars burn hydrogen", "bread rises by yeast"]
    return [
        Document(f"Of {test}, number {n}. " + f"Here {theme} in a way of its own. " * 18, metadata={"source": theme})
        for n, theme in enumerate(themes)
    ]


def cache_read(message: Any) -> int:
    """How many tokens of an answer's prompt came out of the KV cache."""
    return int(message.usage_metadata["input_token_details"]["cache_read"])


def running(grit: GritLM) -> int:
    """How many generations the worker has in hand."""
    return len(grit._loaded().scheduler._generates)


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


async def await_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.005)


def break_at_step(monkeypatch: pytest.MonkeyPatch, grit: GritLM, step: int) -> None:
    """Let the decoder fail at its nth step from now on, as a device would."""
    decoder = grit._loaded().scheduler._decoder
    true_step, calls = decoder.step, Counter[str]()

    def failing(*args: Any) -> Any:
        calls["step"] += 1
        if calls["step"] >= step:
            raise RuntimeError("device lost")
        return true_step(*args)

    monkeypatch.setattr(decoder, "step", failing)
