"""Fixtures of the LlamaIndex tests: recorders of what reaches the model and what the framework announces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import llama_index.core
import pytest
from llama_index.core import Settings
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler

from grit_integrations import Decoding, GritLM, KVCacheStore
from grit_integrations.engine.decoder import Decoder
from grit_integrations.engine.jobs import ENCODE, GENERATE
from grit_integrations.engine.scheduler import Scheduler
from grit_integrations.llama_index import KVCacheEvent


class _Recorder(BaseEventHandler):
    seen: list[Any] = []  # noqa: RUF012  # a pydantic field: every object gets its own

    def handle(self, event: Any, **_: Any) -> None:
        self.seen.append(event)


@pytest.fixture
def recorded() -> Iterator[Callable[[], list[Any]]]:
    """The instrumentation events so far, without those of the spans' own bookkeeping."""
    recorder = _Recorder()
    root = get_dispatcher()
    root.add_event_handler(recorder)
    yield lambda: list(recorder.seen)
    root.event_handlers.remove(recorder)


@pytest.fixture
def events(recorded: Callable[[], list[Any]]) -> Callable[[], list[str]]:
    """Names of the events so far."""
    return lambda: [type(event).__name__ for event in recorded()]


@pytest.fixture
def kv_events(recorded: Callable[[], list[Any]]) -> Callable[[], list[KVCacheEvent]]:
    """What the KV cache was said to have done so far."""
    return lambda: [event for event in recorded() if isinstance(event, KVCacheEvent)]


@pytest.fixture
def fresh(tiny: GritLM) -> Iterator[Callable[..., GritLM]]:
    """Make objects of the tiny model that share its weights, each with a store of its own in main memory."""

    def make(**options: Any) -> GritLM:
        return GritLM(tiny.source, kv_store=KVCacheStore(None), **options)

    yield make
    tiny._loaded().recent._texts.clear()


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], Decoding]]:
    """Token ids and options of every generation that reaches a scheduler."""
    seen: list[tuple[list[int], Decoding]] = []
    submit = Scheduler.submit

    def recorded(self: Scheduler, job: Any) -> Any:
        if job.lane is GENERATE:
            seen.append((list(job.reuse.plan.prompt_ids), job.decoding))
        return submit(self, job)

    monkeypatch.setattr(Scheduler, "submit", recorded)
    return seen


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each encode request that reached a scheduler had."""
    seen: list[int] = []
    submit = Scheduler.submit

    def recorded(self: Scheduler, job: Any) -> Any:
        if job.lane is ENCODE:
            seen.append(job.left)
        return submit(self, job)

    monkeypatch.setattr(Scheduler, "submit", recorded)
    return seen


@pytest.fixture
def broken_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that fails at its third token."""
    step, steps = Decoder.step, iter(range(1_000_000))

    def failing(self: Decoder, rows: Any) -> Any:
        if next(steps) >= 2:
            raise RuntimeError("the device is gone")
        return step(self, rows)

    monkeypatch.setattr(Decoder, "step", failing)


@pytest.fixture
def clean_settings() -> Iterator[None]:
    """The framework's global settings, put back afterwards."""
    saved, tokenizer = dict(vars(Settings)), llama_index.core.global_tokenizer
    for name in saved:
        setattr(Settings, name, None)
    llama_index.core.global_tokenizer = None
    yield
    for name, value in saved.items():
        setattr(Settings, name, value)
    llama_index.core.global_tokenizer = tokenizer


@pytest.fixture
def running(tiny: GritLM) -> Callable[[], int]:
    """How many generations the tiny model's scheduler works on."""
    return lambda: len(tiny._loaded().scheduler.jobs(GENERATE))
