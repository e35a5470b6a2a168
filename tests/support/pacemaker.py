"""Measures how long an event loop is held up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

_TICK = 0.01
_LATE = 0.05


async def assert_loop_stays_free(work: Callable[[], Awaitable[object]], *, least: float) -> None:
    """Assert that a 10 ms ticker is never 50 ms late during `work`, which must take at least `least` seconds.

    A busy machine can hold up any loop for once, work that blocks does so each time: three tries.
    """
    for _ in range(3):
        worst, took = await _lateness(work)
        assert took >= least, f"{took:.2f} s are too short to show anything"
        if worst < _LATE:
            return
    raise AssertionError(f"the event loop was held up for {worst * 1000:.0f} ms")


async def _lateness(work: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Return the ticker's worst lateness and the duration of `work`, in seconds."""
    lateness: list[float] = []

    async def tick() -> None:
        while True:
            due = time.perf_counter() + _TICK
            await asyncio.sleep(_TICK)
            lateness.append(time.perf_counter() - due)

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(2 * _TICK)
    started = time.perf_counter()
    await work()
    took = time.perf_counter() - started
    await asyncio.sleep(2 * _TICK)  # let a late tick be seen
    ticker.cancel()
    return max(lateness), took
