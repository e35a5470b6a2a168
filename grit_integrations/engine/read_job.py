"""The blocks of a prompt that nobody asks about yet, read to be kept for later."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from grit_integrations.engine.jobs import READ, Job, fail, settle

if TYPE_CHECKING:
    from grit_integrations.engine.prefill import Prefill, Reading
    from grit_integrations.kv.reuse import Reuse


class ReadJob(Job):
    """Reads the blocks of one prompt, one a step.

    Attributes:
        future: the blocks' fate; cancelling it stops the work.
    """

    lane = READ

    def __init__(self, prefill: Prefill, reuse: Reuse) -> None:
        self._prefill, self._reuse = prefill, reuse
        self._reading: Reading | None = None
        self.future: Future[Reuse] = Future()

    @property
    def over(self) -> bool:
        """Whether all blocks are read, or the caller has gone."""
        return self.future.done()

    def step(self, peers: Sequence[Job]) -> None:
        """Read one block."""
        self._reading = self._reading or self._prefill.begin(self._reuse, room=0)
        self._prefill.advance(self._reading)
        if self._reading.done:
            settle(self.future, self._reuse)

    def fail(self, error: BaseException) -> None:
        """Let the future fail."""
        fail(self.future, error)

    def cancel(self) -> None:
        """Cancel the future."""
        self.future.cancel()
