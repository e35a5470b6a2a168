"""The one thread that runs a set of weights: coalesces embeddings into batches and steps generations."""

from __future__ import annotations

import asyncio
import atexit
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from grit_integrations.engine.calls import note_work
from grit_integrations.engine.channel import Channel
from grit_integrations.engine.constraints import Permutation
from grit_integrations.engine.decoder import Decoder, Row
from grit_integrations.engine.encoder import Encoder, EncoderInput
from grit_integrations.engine.prefill import Prefill, Reading
from grit_integrations.engine.verdicts import JudgeJob
from grit_integrations.errors import GritError
from grit_integrations.kv.blocks import KVBlock
from grit_integrations.kv.reuse import Reuse
from grit_integrations.options import Decoding, Pooling
from grit_integrations.quoting.branches import check_kernel
from grit_integrations.quoting.spans import Spans
from grit_integrations.results import GenerationChunk

MOST_ROWS = 8  # generations that run side by side, each with a cache of its own; later ones wait for a place

Progress = Callable[[int], object]
Keep = Callable[[int, KVBlock], object]

_alive: weakref.WeakSet[Scheduler] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Join every worker before the interpreter goes: a thread inside torch at that moment aborts the process."""
    for scheduler in list(_alive):
        scheduler.close()


@dataclass(slots=True, eq=False)
class EncodeJob:
    """Texts of one caller, each encoded in whichever batch it fits into."""

    items: Sequence[EncoderInput]
    pooling: Pooling
    on_progress: Progress | None
    keep: Keep | None = None  # called on the worker with each text's index and block
    future: Future[Tensor] = field(default_factory=Future)  # (texts, dim) float32
    waiting: list[int] = field(init=False)  # indices not encoded yet, shortest first
    vectors: list[Tensor | None] = field(init=False)

    def __post_init__(self) -> None:
        self.waiting = sorted(range(len(self.items)), key=lambda index: len(self.items[index]))
        self.vectors = [None] * len(self.items)


@dataclass(slots=True, eq=False)
class GenerateJob:
    """One generation and the channel its chunks go to."""

    reuse: Reuse
    decoding: Decoding
    asked: float
    spans: Spans | None = None
    permutation: Permutation | None = None
    channel: Channel[GenerationChunk] = field(default_factory=Channel)
    queued: float = field(default_factory=time.perf_counter)
    row: Row | None = None

    def cancel(self) -> None:
        """Let go of a consumer that waits, and stop."""
        self.channel.fail(asyncio.CancelledError())
        self.channel.close()


@dataclass(slots=True, eq=False)
class ReadJob:
    """The blocks of a prompt that nobody asks about yet."""

    reuse: Reuse
    future: Future[Reuse] = field(default_factory=Future)
    reading: Reading | None = None


Job = EncodeJob | GenerateJob | ReadJob | JudgeJob


class Scheduler:
    """Owns the worker thread. Callers submit from any thread and wait on a future or a channel.

    The worker alternates between one encoder batch, one decode step of every generation and one block or batch of
    verdicts, so none starves. It ends when `close` is called or the scheduler is garbage collected.
    """

    def __init__(self, encoder: Encoder, prefill: Prefill, decoder: Decoder) -> None:
        self._encoder = encoder
        self._prefill = prefill
        self._decoder = decoder
        self._encodes: list[EncodeJob] = []
        self._generates: list[GenerateJob] = []
        self._reads: list[ReadJob] = []
        self._judges: list[JudgeJob] = []
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._pid = os.getpid()
        self._closed = False
        self._lock = threading.Lock()  # orders submissions against close
        self._thread = threading.Thread(
            target=_work, args=(weakref.ref(self), self._inbox), name="grit-worker", daemon=True
        )
        self._stop = weakref.finalize(self, self._inbox.put, None)
        self._thread.start()
        _alive.add(self)

    def encode(
        self,
        items: Sequence[EncoderInput],
        pooling: Pooling,
        *,
        on_progress: Progress | None = None,
        keep: Keep | None = None,
    ) -> Future[Tensor]:
        """Queue texts; the future gives (texts, dim) float32 in their order. Cancelling it stops the work.

        With `keep`, each text is read by itself and its keys and values are handed over.
        """
        job = EncodeJob(items, pooling, on_progress, keep)
        self._submit(job)
        return job.future

    def generate(
        self,
        reuse: Reuse,
        decoding: Decoding,
        *,
        asked: float,
        spans: Spans | None = None,
        permutation: Permutation | None = None,
    ) -> Channel[GenerationChunk]:
        """Queue a generation; its chunks come through the channel, and closing the channel stops it.

        `spans` are what it may quote, if `decoding` asks for a quote; a `permutation` is all that it may say.
        """
        job = GenerateJob(reuse, decoding, asked, spans, permutation)
        self._submit(job)
        return job.channel

    def read(self, reuse: Reuse) -> Future[Reuse]:
        """Queue the blocks of a prompt, to be kept for later; cancelling the future stops the work."""
        job = ReadJob(reuse)
        self._submit(job)
        return job.future

    def judge(
        self, reuses: Sequence[Reuse], wanted: tuple[int, ...], *, on_progress: Progress | None = None
    ) -> Future[Tensor]:
        """Queue prompts, at least one; the future gives the logits of `wanted` behind each, (prompts, wanted) float32.

        Cancelling it stops the work.

        Raises:
            OptionError: the model's attention kernel takes no mask.
        """
        check_kernel(self._encoder.weights)
        job = JudgeJob(reuses, wanted, on_progress)
        self._submit(job)
        return job.future

    def close(self) -> None:
        """Stop the worker; work that is still queued fails with a clear error."""
        with self._lock:
            self._closed = True
            self._stop()
        if os.getpid() == self._pid and threading.current_thread() is not self._thread:
            self._thread.join()

    def _submit(self, job: Job) -> None:
        if os.getpid() != self._pid:
            raise GritError(
                "This model was loaded before the process forked, and its worker thread does not exist here. "
                "Start workers with the 'spawn' method; the model is then loaded in each of them."
            )
        note_work(job.cancel if isinstance(job, GenerateJob) else job.future.cancel)
        with self._lock:
            if self._closed:
                raise GritError("This model was unloaded while it was being used. Call it again to load it anew.")
            self._inbox.put(job)

    # Everything below runs on the worker thread.

    def _accept(self, job: Job) -> None:
        if isinstance(job, EncodeJob):
            self._encodes.append(job)
        elif isinstance(job, GenerateJob):
            self._generates.append(job)
        elif isinstance(job, JudgeJob):
            self._judges.append(job)
        else:
            self._reads.append(job)

    def _run_until_idle(self) -> bool:
        """Work until nothing is queued. Returns False if the scheduler was told to stop."""
        while self._encodes or self._generates or self._reads or self._judges:
            self._encode_batch()
            self._decode_step()
            self._read_block()
            self._judge_step()
            if not self._drain_inbox():
                self._abandon()
                return False
        return True

    def _drain_inbox(self) -> bool:
        while not self._inbox.empty():
            job = self._inbox.get_nowait()
            if job is None:
                return False
            self._accept(job)
        return True

    def _abandon(self) -> None:
        error = GritError("The model was unloaded before this request was finished. Send it again.")
        for encode in self._encodes:
            _fail(encode.future, error)
        for generate in self._generates:
            generate.channel.fail(error)
        for read in self._reads:
            _fail(read.future, error)
        for judge in self._judges:
            _fail(judge.future, error)
        self._encodes, self._generates, self._reads, self._judges = [], [], [], []

    def _encode_batch(self) -> None:
        """Run one batch: the job with the least left goes first, and texts of like length ride along."""
        self._encodes = [job for job in self._encodes if job.waiting and not job.future.done()]
        if not self._encodes:
            return
        leader = min(self._encodes, key=lambda job: len(job.waiting))
        batch = self._compose(leader)
        try:
            vectors = self._encoded(batch)
        except Exception as error:  # whatever torch raises belongs to the callers of this batch, not to the worker
            for job in {id(job): job for job, _ in batch}.values():
                _fail(job.future, error)
            return
        self._deliver(batch, vectors)

    def _encoded(self, batch: Sequence[tuple[EncodeJob, int]]) -> Tensor:
        (job, index), *_ = batch
        if job.keep is None:
            return self._encoder.forward([job.items[index] for job, index in batch], job.pooling)
        vector, block = self._encoder.embed_one(job.items[index], job.pooling)
        job.keep(index, block)
        return vector

    def _compose(self, leader: EncodeJob) -> list[tuple[EncodeJob, int]]:
        """Take texts out of the jobs' waiting lists, longest first, up to the token budget."""
        longest = len(leader.items[leader.waiting[-1]])
        room = 1 if leader.keep else max(1, self._encoder.batch_tokens // longest)
        batch = [(leader, index) for index in _take(leader, longest, room)]
        for job in self._encodes:
            if job is not leader and job.pooling == leader.pooling and job.keep is None and len(batch) < room:
                batch += [(job, index) for index in _take(job, longest, room - len(batch))]
        return batch

    def _deliver(self, batch: Sequence[tuple[EncodeJob, int]], vectors: Tensor) -> None:
        done: dict[int, tuple[EncodeJob, int]] = {}
        for (job, index), vector in zip(batch, vectors, strict=True):
            job.vectors[index] = vector
            done[id(job)] = (job, done.get(id(job), (job, 0))[1] + 1)
        for job, count in done.values():
            if job.on_progress is not None:
                job.on_progress(count)
            if not job.waiting and job.future.set_running_or_notify_cancel():
                job.future.set_result(torch.stack([vector for vector in job.vectors if vector is not None]))

    def _decode_step(self) -> None:
        self._generates = [job for job in self._generates if not job.channel.closed]
        for job in self._generates[:MOST_ROWS]:
            try:
                row = job.row = job.row or self._decoder.start(
                    job.reuse,
                    job.decoding,
                    asked=job.asked,
                    queued=job.queued,
                    spans=job.spans,
                    permutation=job.permutation,
                )
                (chunk,) = self._decoder.step([row])
            except Exception as error:  # belongs to this generation alone
                self._generates.remove(job)
                job.channel.fail(error)
                continue
            if chunk is None:
                continue
            if chunk.generation is not None:
                self._generates.remove(job)
            job.channel.put(chunk)

    def _read_block(self) -> None:
        self._reads = [job for job in self._reads if not job.future.cancelled()]
        if not self._reads:
            return
        job = self._reads[0]
        try:
            job.reading = job.reading or self._prefill.begin(job.reuse, room=0)
            self._prefill.advance(job.reading)
        except Exception as error:  # belongs to this prompt alone
            self._reads.remove(job)
            _fail(job.future, error)
            return
        if job.reading.done:
            self._reads.remove(job)
            if job.future.set_running_or_notify_cancel():
                job.future.set_result(job.reuse)

    def _judge_step(self) -> None:
        """Go on with the job that has the least left."""
        self._judges = [job for job in self._judges if not job.future.done()]
        if not self._judges:
            return
        job = min(self._judges, key=lambda job: job.left)
        try:
            done = job.step(self._encoder, self._prefill)
        except Exception as error:  # belongs to these prompts alone
            self._judges.remove(job)
            _fail(job.future, error)
            return
        if done:
            self._judges.remove(job)
            if job.judge is not None and job.future.set_running_or_notify_cancel():
                job.future.set_result(job.judge.result())


def _work(reference: weakref.ref[Scheduler], inbox: queue.SimpleQueue[Job | None]) -> None:
    """Serve jobs. While idle, only a weak reference is held: dropping the last model frees weights and thread."""
    while True:
        job = inbox.get()
        scheduler = reference()
        if scheduler is None or job is None:
            return
        scheduler._accept(job)
        del job
        if not scheduler._run_until_idle():
            return
        del scheduler


def _take(job: EncodeJob, longest: int, room: int) -> list[int]:
    """Remove and return up to `room` indices of `job` no longer than `longest`, but not much shorter either."""
    taken: list[int] = []
    position = len(job.waiting) - 1
    while position >= 0 and len(taken) < room:
        length = len(job.items[job.waiting[position]])
        if length < longest * 0.75 - 16:
            break
        if length <= longest:
            taken.append(job.waiting.pop(position))
        position -= 1
    return taken


def _fail(future: Future[Any], error: BaseException) -> None:
    if not future.done() and future.set_running_or_notify_cancel():
        future.set_exception(error)
