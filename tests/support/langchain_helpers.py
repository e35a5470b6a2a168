"""What tests of the LangChain adapters do again and again."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.documents import Document

from grit_integrations import GritLM, KVCacheStore
from grit_integrations.engine.jobs import GENERATE
from grit_integrations.options import Caching


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


def answer(adapter: Any, /, **options: Any) -> str:
    """What an adapter says to a greeting."""
    result = adapter.invoke("Hello", **options)
    return result if isinstance(result, str) else str(result.text)


def running(grit: GritLM) -> int:
    """How many generations the worker has in hand."""
    return len(grit._loaded().scheduler.jobs(GENERATE))


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
    decoder = grit._loaded().decoder
    true_step, calls = decoder.step, Counter[str]()

    def failing(*args: Any) -> Any:
        calls["step"] += 1
        if calls["step"] >= step:
            raise RuntimeError("device lost")
        return true_step(*args)

    monkeypatch.setattr(decoder, "step", failing)
