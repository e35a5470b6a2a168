"""The blocks of a prompt that nobody asks about yet, read to be kept for later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from grit_integrations.engine.jobs import READ, FutureJob
from grit_integrations.kv.reuse import Reuse

if TYPE_CHECKING:
    from grit_integrations.engine.jobs import Job
    from grit_integrations.engine.prefill import Prefill, Reading


class ReadJob(FutureJob[Reuse]):
    """Reads the blocks of one prompt, one a step.

    Attributes:
        future: the blocks' fate; cancelling it stops the work.
    """

    lane = READ

    def __init__(self, prefill: Prefill, reuse: Reuse) -> None:
        super().__init__()
        self._prefill, self._reuse = prefill, reuse
        self._reading: Reading | None = None

    def step(self, peers: Sequence[Job]) -> None:
        """Read one block."""
        self._reading = self._reading or self._prefill.begin(self._reuse, room=0)
        self._prefill.advance(self._reading)
        if self._reading.done:
            self.finish(self._reuse)
