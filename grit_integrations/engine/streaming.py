"""A running generation as the caller holds it: iterable from threads and from event loops, stopped by closing it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from grit_integrations.engine.channel import ChannelClosedError

if TYPE_CHECKING:
    from grit_integrations.engine.channel import Channel
    from grit_integrations.results import Generation, GenerationChunk


class GenerationStream:
    """Chunks of one generation as they are decoded; use it with `for`, `async for`, `with` or `async with`.

    The last chunk carries the whole `Generation`. An error of the model is raised where the next chunk was expected.
    Closing the stream, or dropping it, frees its place at the next token.
    """

    def __init__(self, channel: Channel[GenerationChunk], owner: object) -> None:
        self._channel = channel
        self._owner: object = owner  # what must stay in memory while the stream is read
        self._done = False

    def __iter__(self) -> GenerationStream:
        return self

    def __next__(self) -> GenerationChunk:
        if self._done:
            raise StopIteration
        try:
            return self._seen(self._channel.get().result())
        except ChannelClosedError:  # by another thread, while this one waited
            raise StopIteration from None
        except BaseException:
            self.close()
            raise

    def __aiter__(self) -> GenerationStream:
        return self

    async def __anext__(self) -> GenerationChunk:
        if self._done:
            raise StopAsyncIteration
        try:
            return self._seen(await asyncio.wrap_future(self._channel.get()))
        except ChannelClosedError:  # by another task, while this one waited
            raise StopAsyncIteration from None
        except BaseException:
            self.close()
            raise

    def result(self) -> Generation:
        """Read to the end and return the finished generation."""
        for chunk in self:
            if chunk.generation is not None:
                return chunk.generation
        raise RuntimeError("This stream was already read or closed; start a new one.")

    async def aresult(self) -> Generation:
        """Read to the end without blocking the event loop and return the finished generation."""
        async for chunk in self:
            if chunk.generation is not None:
                return chunk.generation
        raise RuntimeError("This stream was already read or closed; start a new one.")

    def close(self) -> None:
        """Stop generating; closing twice is fine."""
        self._done = True
        self._channel.close()
        self._owner = None

    async def aclose(self) -> None:
        """Stop generating; the async twin of `close`."""
        self.close()

    def __enter__(self) -> GenerationStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> GenerationStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._channel.close()

    def _seen(self, chunk: GenerationChunk) -> GenerationChunk:
        if chunk.generation is not None:
            self.close()
        return chunk
