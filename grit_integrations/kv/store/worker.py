"""A background thread of a store, and the tasks that wait for it."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grit_integrations.kv.blocks import KVBlock

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Task:
    """Work for a `Worker`. `run` gets the task, so that it can see whether it was cancelled meanwhile."""

    run: Callable[[Task], None]
    block: KVBlock | None = None
    nbytes: int = 0
    cancelled: bool = False
    number: int = 0


class Worker:
    """A daemon thread that does tasks in order, one per key, bounded by the bytes that wait. Starts with the first.

    Args:
        name: of the thread.
        max_bytes: how much may wait; a task beyond it is refused.
        max_tasks: how many may wait.
    """

    def __init__(self, name: str, *, max_bytes: int = 1 << 30, max_tasks: int = 100_000) -> None:
        self._name, self._max_bytes, self._max_tasks = name, max_bytes, max_tasks
        self._tasks: OrderedDict[str, Task] = OrderedDict()
        self._current: tuple[str, Task] | None = None
        self._bytes = self._last = 0
        self._stopping = False
        self.thread: threading.Thread | None = None
        self._changed = threading.Condition()

    @property
    def pending(self) -> int:
        """Tasks that wait or run."""
        with self._changed:
            return len(self._tasks) + (self._current is not None)

    def submit(self, key: str, task: Task) -> bool:
        """Queue a task, unless one of its key waits; False if there is no room or no thread for it."""
        with self._changed:
            if self._stopping:
                return False
            if key in self._tasks or (self._current and self._current[0] == key and not self._current[1].cancelled):
                return True
            if (self._tasks or self._current) and self._bytes + task.nbytes > self._max_bytes:
                return False
            if len(self._tasks) >= self._max_tasks:
                return False
            if not self._start():
                return False
            self._last += 1
            task.number = self._last
            self._tasks[key] = task
            self._bytes += task.nbytes
            self._changed.notify_all()
            return True

    def block(self, key: str) -> KVBlock | None:
        """Return the block whose task waits or runs."""
        with self._changed:
            task = self._tasks.get(key)
            if task is None and self._current and self._current[0] == key and not self._current[1].cancelled:
                task = self._current[1]
            return None if task is None else task.block

    def cancel(self, keys: Iterable[str] | None) -> set[str]:
        """Cancel the tasks of `keys`, or all, that hold a block; return their keys."""
        with self._changed:
            wanted = None if keys is None else set(keys)
            chosen = [
                key for key, task in self._tasks.items() if task.block is not None and (wanted is None or key in wanted)
            ]
            for key in chosen:
                self._bytes -= self._tasks.pop(key).nbytes
            cancelled = set(chosen)
            key, task = self._current or ("", None)
            if task is not None and task.block is not None and not task.cancelled and (wanted is None or key in wanted):
                task.cancelled = True
                cancelled.add(key)
            self._changed.notify_all()
            return cancelled

    def cancel_all(self) -> None:
        """Drop the tasks that wait."""
        with self._changed:
            self._tasks.clear()
            self._bytes = 0 if self._current is None else self._current[1].nbytes
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every task that was queued before is done; False if `timeout` seconds were not enough."""
        deadline = None if timeout is None else monotonic() + timeout
        with self._changed:
            last = self._last
            while self._first() <= last:
                left = None if deadline is None else deadline - monotonic()
                if (left is not None and left <= 0) or self.thread is threading.current_thread():
                    return False
                self._changed.wait(left)
            return True

    def close(self) -> None:
        """Do what waits, then end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self.thread is not None and self.thread is not threading.current_thread():
            self.thread.join()

    def _first(self) -> float:
        """Return the number of the oldest task that is not done."""
        if self._current is not None:
            return self._current[1].number
        return next((task.number for task in self._tasks.values()), float("inf"))

    def _start(self) -> bool:
        """Start the thread, if it does not run; False if the system has no more threads: the next task tries again."""
        if self.thread is None:
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self.thread = thread
        return True

    def _work(self) -> None:
        while (task := self._next()) is not None:
            self._run(task)

    def _run(self, task: Task) -> None:
        try:
            task.run(task)
        except Exception:
            # A task handles its own errors; one that forgot must not end the thread that flush waits for.
            _log.exception("%s: a task failed.", self._name)

    def _next(self) -> Task | None:
        with self._changed:
            if self._current is not None:
                self._bytes -= self._current[1].nbytes
                self._current = None
                self._changed.notify_all()
            while not self._tasks and not self._stopping:
                self._changed.wait()
            if not self._tasks:
                return None
            self._current = self._tasks.popitem(last=False)
            return self._current[1]
