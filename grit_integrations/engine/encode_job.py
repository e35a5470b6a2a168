"""Texts of one caller, encoded in batches that texts of other callers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grit_integrations.engine.jobs import ENCODE, FutureJob, tell
from grit_integrations.kv.blocks import KVBlock

if TYPE_CHECKING:
    from grit_integrations.engine.encoder import Encoder
    from grit_integrations.engine.jobs import Job
    from grit_integrations.prompts.embedding import EncoderInput

Keep = Callable[[int, KVBlock], object]


class EncodeJob(FutureJob[Tensor]):
    """Encodes texts, each in whichever batch it fits into.

    Args:
        encoder: runs the batches.
        items: the texts.
        pooling: how token states become a vector.
        on_progress: called on the worker with how many texts were finished.
        keep: called on the worker with each text's index and block; each text is then read by itself.

    Attributes:
        future: (texts, dim) float32, in the order of the texts; cancelling it stops the work.
    """

    lane = ENCODE

    def __init__(
        self,
        encoder: Encoder,
        items: Sequence[EncoderInput],
        pooling: str,
        *,
        on_progress: Callable[[int], object] | None = None,
        keep: Keep | None = None,
    ) -> None:
        super().__init__()
        self._encoder, self._items, self._pooling = encoder, items, pooling
        self._on_progress, self._keep = on_progress, keep
        self._waiting = sorted(range(len(items)), key=lambda index: len(items[index]))  # shortest first
        self._vectors: list[Tensor | None] = [None] * len(items)

    @property
    def left(self) -> int:
        """Texts not encoded yet."""
        return len(self._waiting)

    @property
    def over(self) -> bool:
        """Whether all texts are encoded, or the caller has gone."""
        return not self._waiting or self.future.done()

    def step(self, peers: Sequence[Job]) -> None:
        """Run one batch of this job's longest texts; texts of like length of other jobs ride along."""
        batch = self._compose(peers)
        try:
            vectors = self._encoded(batch)
        except Exception as error:  # belongs to the callers of this batch
            for job in {id(job): job for job, _ in batch}.values():
                job.fail(error)
            return
        _deliver(batch, vectors)

    def _encoded(self, batch: Sequence[tuple[EncodeJob, int]]) -> Tensor:
        if self._keep is None:
            return self._encoder.forward([job._items[index] for job, index in batch], self._pooling)
        ((_, index),) = batch
        vector, block = self._encoder.embed_one(self._items[index], self._pooling)
        self._keep(index, block)
        return vector

    def _compose(self, peers: Sequence[Job]) -> list[tuple[EncodeJob, int]]:
        """Take texts out of the jobs' waiting lists, longest first, up to the token budget."""
        longest = len(self._items[self._waiting[-1]])
        room = 1 if self._keep else max(1, self._encoder.batch_tokens // longest)
        batch = [(self, index) for index in self._take(longest, room)]
        for job in peers:
            if not isinstance(job, EncodeJob) or job._keep is not None or job._pooling != self._pooling:
                continue
            if len(batch) < room:
                batch += [(job, index) for index in job._take(longest, room - len(batch))]
        return batch

    def _take(self, longest: int, room: int) -> list[int]:
        """Remove and return up to `room` indices of texts no longer than `longest`, but not much shorter either."""
        taken: list[int] = []
        position = len(self._waiting) - 1
        while position >= 0 and len(taken) < room:
            length = len(self._items[self._waiting[position]])
            if length < longest * 0.75 - 16:
                break
            if length <= longest:
                taken.append(self._waiting.pop(position))
            position -= 1
        return taken

    def _finish(self, count: int) -> None:
        tell(self._on_progress, count)
        if not self._waiting:
            self.finish(torch.stack([vector for vector in self._vectors if vector is not None]))


def _deliver(batch: Sequence[tuple[EncodeJob, int]], vectors: Tensor) -> None:
    done: dict[int, tuple[EncodeJob, int]] = {}
    for (job, index), vector in zip(batch, vectors, strict=True):
        job._vectors[index] = vector
        done[id(job)] = (job, done.get(id(job), (job, 0))[1] + 1)
    for job, count in done.values():
        job._finish(count)
