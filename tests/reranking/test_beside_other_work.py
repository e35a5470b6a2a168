"""Reranking beside other work: async, cancelled, concurrent, failing, unloaded."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_checkpoint
from passages import PASSAGES, QUERY, Make

from grit_integrations import Decoding, GritLM
from grit_integrations.engine.jobs import JUDGE, LANES
from grit_integrations.errors import (
    EmptyTextError,
    GritError,
)


async def idle(grit: GritLM) -> bool:
    """Wait until the worker has nothing left and no thread waits for it."""
    scheduler = grit._loaded().scheduler
    for _ in range(1000):
        calls = any(thread.name.startswith("grit-call") for thread in threading.enumerate())
        if not (calls or any(map(scheduler.jobs, LANES))):
            return True
        await asyncio.sleep(0.01)
    return False


async def test_async_equals_sync(tiny: GritLM) -> None:
    for options in ({}, {"order": "passage-block"}, {"method": "listwise"}, {"method": "embedding"}):
        wanted = tiny.rerank(QUERY, PASSAGES, **options)
        found = await tiny.arerank(QUERY, PASSAGES, **options)
        assert [each.index for each in found] == [each.index for each in wanted]
        assert [each.score for each in found] == pytest.approx([each.score for each in wanted], abs=1e-5)
    with pytest.raises(EmptyTextError):
        await tiny.arerank(" ", PASSAGES)


@pytest.mark.parametrize("options", [{}, {"method": "listwise"}, {"method": "embedding"}])
async def test_cancelling_stops_the_work_and_the_loop_never_waits(make: Make, options: Any) -> None:
    grit = make(caching="off")
    passages = [f"{index} {PASSAGES[0]}" for index in range(4000)]
    task = asyncio.create_task(grit.arerank(QUERY, passages, **options))
    await asyncio.sleep(0.3)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await idle(grit)


async def test_roles_do_not_disturb_each_other(tiny: GritLM) -> None:
    short = Decoding(max_new_tokens=20)
    answer = tiny.generate(QUERY, PASSAGES[:2], decoding=short)
    ranking = tiny.rerank(QUERY, PASSAGES)
    vectors = tiny.embed_documents(PASSAGES)
    jobs: list[Any] = []
    for _ in range(6):
        jobs += [
            tiny.agenerate(QUERY, PASSAGES[:2], decoding=short),
            tiny.arerank(QUERY, PASSAGES),
            tiny.aembed_documents(PASSAGES),
        ]
    found = await asyncio.gather(*jobs)
    assert all(each.token_ids == answer.token_ids for each in found[::3])
    assert all(each == ranking for each in found[1::3])
    assert all(abs(each - vectors).max() < 1e-6 for each in found[2::3])


def test_an_error_reaches_only_its_caller(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    grit = make(caching="off")

    def failing(*_: Any) -> None:
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr("grit_integrations.engine.verdicts.tail_logits", failing)
        with pytest.raises(RuntimeError, match="no memory"):
            grit.rerank(QUERY, PASSAGES)
    assert len(grit.rerank(QUERY, PASSAGES)) == 4


def test_unloading_ends_a_reranking(tmp_path: Path) -> None:
    grit = GritLM.from_pretrained(write_checkpoint(tmp_path / "m", seed=5))
    scheduler, failed = grit._loaded().scheduler, []

    def rank() -> None:
        try:
            grit.rerank(QUERY, [f"{index} {PASSAGES[0]}" for index in range(2000)])
        except GritError as error:
            failed.append(str(error))

    thread = threading.Thread(target=rank)
    thread.start()
    while not scheduler.jobs(JUDGE):
        thread.join(0.01)
    scheduler.close()
    thread.join(30)
    assert failed and "unloaded" in failed[0]
