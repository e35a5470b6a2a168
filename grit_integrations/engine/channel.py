"""Items from one producer thread to one consumer, awaited in the same way by threads and by event loops."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class ChannelClosedError(Exception):
    """What a `get` gives that still waited when the consumer's side was closed."""


class Channel(Generic[T]):
    """An unbounded queue whose `get` returns a future, so that sync and async consumers share one code path."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: deque[T] = deque()
        self._waiting: Future[T] | None = None
        self._error: BaseException | None = None
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether the consumer has gone; the producer may stop."""
        return self._closed

    def put(self, item: T) -> None:
        """Hand `item` to the consumer."""
        with self._lock:
            waiting = self._take_waiting()
            if waiting is None:
                self._items.append(item)
        if waiting is not None:
            waiting.set_result(item)

    def fail(self, error: BaseException) -> None:
        """Let the consumer's next empty `get` raise `error`."""
        with self._lock:
            self._error = error
            waiting = self._take_waiting()
        if waiting is not None:
            waiting.set_exception(error)

    def get(self) -> Future[T]:
        """Return a future of the next item; it fails if the producer failed."""
        future: Future[T] = Future()
        with self._lock:
            if not self._items and self._error is None and not self._closed:
                self._waiting = future
                return future
            item = self._items.popleft() if self._items else None
        if item is not None:
            future.set_result(item)
        else:
            future.set_exception(self._error or ChannelClosedError())
        return future

    def close(self) -> None:
        """Tell the producer that nobody reads any more; a `get` that waits, in whichever thread, ends."""
        with self._lock:
            self._closed = True
            waiting = self._take_waiting()
        if waiting is not None:
            waiting.set_exception(ChannelClosedError())

    def _take_waiting(self) -> Future[T] | None:
        """Claim the waiting future, unless its consumer has cancelled it."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.set_running_or_notify_cancel():
            return None
        return waiting
