"""Waiting for a model's worker: a caller that is interrupted or cancelled takes its work back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import TypeVar

Result = TypeVar("Result")


def wait(future: Future[Result]) -> Result:
    """Return a future's result; when the wait is interrupted, cancel it."""
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


class Call:
    """A call that asks one thing of the worker after the other, and can be ended from outside."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancel: Callable[[], object] | None = None  # of the newest alone: what is done holds much memory
        self._cancelled = False

    def add(self, cancel: Callable[[], object]) -> None:
        """Note how to take back what is asked of the worker next.

        Raises:
            asyncio.CancelledError: the call was cancelled.
        """
        with self._lock:
            if self._cancelled:
                raise asyncio.CancelledError
            self._cancel = cancel

    def cancel(self) -> None:
        """Take back what was asked last, and let nothing more be asked."""
        with self._lock:
            self._cancelled = True
        if self._cancel is not None:
            self._cancel()


_call: ContextVar[Call | None] = ContextVar("grit_call", default=None)


def note_work(cancel: Callable[[], object]) -> None:
    """Tell the call that this thread works for, if it is one of `in_thread`, how to take back what it asks next."""
    call = _call.get()
    if call is not None:
        call.add(cancel)


async def in_thread(function: Callable[[], Result]) -> Result:
    """Run `function` in a thread of its own; cancelling the task stops what it has asked of the worker.

    The loop's own threads stay free: what they do for others is short, and this may take minutes.
    """
    call = Call()
    context = copy_context()
    context.run(_call.set, call)
    executor = ThreadPoolExecutor(1, thread_name_prefix="grit-call")
    try:
        return await asyncio.wrap_future(executor.submit(context.run, function))
    except asyncio.CancelledError:
        call.cancel()
        raise
    finally:
        executor.shutdown(wait=False)
