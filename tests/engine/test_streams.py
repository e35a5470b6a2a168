"""Streams closed by others, callbacks that fail, workers that die: nobody waits for ever."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from grit_integrations import Decoding, GritError, GritLM, unload_all
from grit_integrations.engine.vectors import Embedding, embed

LONG = Decoding(max_new_tokens=3000)


def test_closing_from_another_thread_ends_the_reader(tiny: GritLM) -> None:
    for attempt in range(12):
        stream = tiny.stream("Tell me about the Moon.", decoding=LONG)
        ended: list[str] = []
        reader = threading.Thread(target=lambda s=stream, e=ended: e.append("".join(chunk.text for chunk in s)))
        reader.start()
        time.sleep(0.004 * attempt)
        stream.close()
        reader.join(10)
        assert not reader.is_alive() and len(ended) == 1


async def test_closing_from_another_task_ends_the_reader(tiny: GritLM) -> None:
    for attempt in range(8):
        stream = await tiny.astream("Tell me about the Moon.", decoding=LONG)

        async def read(stream: Any = stream) -> int:
            return len([chunk async for chunk in stream])

        reader = asyncio.create_task(read())
        await asyncio.sleep(0.004 * attempt)
        await stream.aclose()
        assert await asyncio.wait_for(reader, 10) >= 0


def test_a_closed_stream_gives_nothing_more(tiny: GritLM) -> None:
    stream = tiny.stream("hello", decoding=LONG)
    next(stream)
    stream.close()
    assert list(stream) == []


def test_progress_that_fails_stops_no_work(tiny: GritLM, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __enter__(self) -> Broken:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, count: int) -> None:
            raise BrokenPipeError("nobody reads this pipe")

    monkeypatch.setattr("grit_integrations.engine.vectors.progress_bar", lambda **_: Broken())
    monkeypatch.setattr("grit_integrations.reranking.pointwise.progress_bar", lambda **_: Broken())
    assert embed(tiny._session(), ["a", "b"], Embedding(side="Query"), progress=True).shape == (2, tiny.dim)
    assert len(tiny.rerank("What?", ["a", "b"], progress=True)) == 2


def test_without_stderr_there_is_no_bar(tiny: GritLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grit_integrations.progress._DELAY", 0.0)
    monkeypatch.setattr("sys.stderr", None)
    assert len(tiny.embed_documents(["a"] * 3, progress=True)) == 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_tells_everybody_who_waits(tiny_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    grit = GritLM(tiny_path, dtype="float64").load()
    scheduler = grit._loaded().scheduler

    def dying(lane: object) -> None:
        raise SystemError("a fault of ours")

    monkeypatch.setattr(scheduler, "_advance", dying)
    with pytest.raises(GritError, match=r"thread has ended.*a fault of ours"):
        grit.embed_queries(["hello"])
    with pytest.raises(GritError, match="unloaded"):
        grit.embed_queries(["hello again"])
    unload_all()
    assert grit.embed_queries(["hello"]).shape == (1, 64)
