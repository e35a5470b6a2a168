"""One generation, and the channel that its chunks go to."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from grit_integrations.engine.channel import Channel
from grit_integrations.engine.jobs import GENERATE, Job

if TYPE_CHECKING:
    from grit_integrations.engine.constraints import Constraint
    from grit_integrations.engine.decoder import Decoder, DecodingRow
    from grit_integrations.kv.reuse import Reuse
    from grit_integrations.options import Decoding
    from grit_integrations.results import GenerationChunk


class ChunksJob(Job):
    """A job whose result are the chunks of a generation; closing the channel stops it.

    Attributes:
        channel: where chunks come out; the last one holds the whole generation.
    """

    lane = GENERATE

    def __init__(self) -> None:
        self.channel: Channel[GenerationChunk] = Channel()
        self.queued = time.perf_counter()
        self._finished = False

    @abstractmethod
    def next_chunk(self) -> GenerationChunk | None:
        """Go on by one step, and return what it gave, if it gave anything."""

    @property
    def over(self) -> bool:
        """Whether the last chunk has been sent, or the caller has gone."""
        return self._finished or self.channel.closed

    def step(self, peers: Sequence[Job]) -> None:
        """Go on by one step."""
        chunk = self.next_chunk()
        if chunk is not None:
            self._finished = chunk.generation is not None
            self.channel.put(chunk)

    def fail(self, error: BaseException) -> None:
        """Let the caller's next chunk be `error`."""
        self._finished = True
        self.channel.fail(error)

    def cancel(self) -> None:
        """Let go of a consumer that waits, and stop."""
        self.channel.fail(asyncio.CancelledError())
        self.channel.close()


class GenerateJob(ChunksJob):
    """Decodes behind a prompt, token by token.

    Args:
        decoder: runs the row.
        reuse: the prompt and the blocks of it that are stored.
        decoding: how tokens are chosen and when they end.
        asked: when the caller asked, a `time.perf_counter()` reading.
        constraint: what the text may say; it follows this generation alone.
    """

    def __init__(
        self,
        decoder: Decoder,
        reuse: Reuse,
        decoding: Decoding,
        *,
        asked: float,
        constraint: Constraint | None = None,
    ) -> None:
        super().__init__()
        self._decoder, self.reuse, self.decoding = decoder, reuse, decoding
        self._asked, self._constraint = asked, constraint
        self._row: DecodingRow | None = None

    def next_chunk(self) -> GenerationChunk | None:
        """Read a block of the prompt, or decode a token."""
        if self._row is None:
            self._row = self._decoder.start(
                self.reuse, self.decoding, asked=self._asked, queued=self.queued, constraint=self._constraint
            )
        return self._decoder.step(self._row)
