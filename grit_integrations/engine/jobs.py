"""What the worker thread does: jobs that step themselves, and the lanes in which they wait."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Lane:
    """How jobs of one kind take turns. The worker goes round the lanes, so none starves another.

    Attributes:
        name: for people.
        abreast: how many jobs of the lane go on in one round; later ones wait for a place.
        shortest_first: whether the job with the least left goes first, else the oldest.
    """

    name: str
    abreast: int = 1
    shortest_first: bool = False


ENCODE = Lane("encode", shortest_first=True)
GENERATE = Lane("generate", abreast=8)  # each holds a cache of its own
READ = Lane("read")
JUDGE = Lane("judge", shortest_first=True)
LANES = (ENCODE, GENERATE, READ, JUDGE)


class Job(ABC):
    """Work of one caller, done on the worker thread in steps.

    A new kind of job is a subclass with a lane of those that there are, or one more of them.
    """

    lane: ClassVar[Lane]

    @abstractmethod
    def step(self, peers: Sequence[Job]) -> None:
        """Go on by one step, and hand over what is finished.

        Args:
            peers: the other jobs of the lane, which may ride along.
        """

    @property
    @abstractmethod
    def over(self) -> bool:
        """Whether nothing is left to do, be it done, failed, or not wanted any more."""

    @property
    def left(self) -> int:
        """How much is left, in a unit that the lane's jobs share."""
        return 0

    @abstractmethod
    def fail(self, error: BaseException) -> None:
        """Let the caller have `error`, unless it has gone."""

    @abstractmethod
    def cancel(self) -> None:
        """Take the job back, and let go of a caller that waits."""


class FutureJob(Job, Generic[_Result]):
    """A job whose result comes all at once.

    Attributes:
        future: the result; cancelling it stops the work.
    """

    def __init__(self) -> None:
        self.future: Future[_Result] = Future()

    @property
    def over(self) -> bool:
        """Whether the future has its result, or the caller has gone."""
        return self.future.done()

    def finish(self, result: _Result) -> None:
        """Give the future its result, unless it was cancelled."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Let the future fail, unless it was cancelled or has a result."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)

    def cancel(self) -> None:
        """Cancel the future."""
        self.future.cancel()


def tell(on_progress: Callable[[int], object] | None, count: int) -> None:
    """Report progress. What a callback does (a bar without stderr) is its caller's affair, not the job's."""
    if on_progress is not None:
        with contextlib.suppress(Exception):
            on_progress(count)
