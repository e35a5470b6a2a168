"""The one thread that runs a set of weights: order, fairness and errors of its jobs; what they do is theirs."""

from __future__ import annotations

import atexit
import os
import queue
import threading
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from grit_integrations.engine.calls import note_work
from grit_integrations.engine.jobs import LANES, Job
from grit_integrations.errors import GritError

if TYPE_CHECKING:
    from grit_integrations.engine.jobs import Lane

AnyJob = TypeVar("AnyJob", bound=Job)

_alive: weakref.WeakSet[Scheduler] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Join every worker before the interpreter goes: a thread inside torch at that moment aborts the process."""
    for scheduler in list(_alive):
        scheduler.close()


class Scheduler:
    """Owns the worker thread. Callers submit jobs from any thread and wait on what the job gives them.

    The worker goes round the lanes: in each, as many jobs as the lane allows go on by one step. It ends when `close` is
    called or the scheduler is garbage collected.
    """

    def __init__(self) -> None:
        self._lanes: dict[Lane, list[Job]] = {lane: [] for lane in LANES}
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

    def submit(self, job: AnyJob) -> AnyJob:
        """Queue a job, and return it.

        Raises:
            GritError: the model was unloaded, or loaded before the process forked.
        """
        if os.getpid() != self._pid:
            raise GritError(
                "This model was loaded before the process forked, and its worker thread does not exist here. "
                "Start workers with the 'spawn' method; the model is then loaded in each of them."
            )
        note_work(job.cancel)
        with self._lock:
            if self._closed:
                raise GritError("This model was unloaded while it was being used. Call it again to load it anew.")
            self._inbox.put(job)
        return job

    def jobs(self, lane: Lane) -> Sequence[Job]:
        """Return the jobs of a lane that the worker has in hand."""
        return tuple(self._lanes[lane])

    def close(self) -> None:
        """Stop the worker; work that is still queued fails with a clear error."""
        with self._lock:
            self._closed = True
            self._stop()
        if os.getpid() == self._pid and threading.current_thread() is not self._thread:
            self._thread.join()

    # Everything below runs on the worker thread.

    def _accept(self, job: Job) -> None:
        self._lanes[job.lane].append(job)

    def _run_until_idle(self) -> bool:
        """Work until nothing is queued. Returns False if the scheduler was told to stop."""
        while any(self._lanes.values()):
            for lane in self._lanes:
                self._advance(lane)
            if not self._drain_inbox():
                self._abandon()
                return False
        return True

    def _advance(self, lane: Lane) -> None:
        waiting = self._waiting(lane)
        ordered = sorted(waiting, key=lambda job: job.left) if lane.shortest_first else waiting
        for job in ordered[: lane.abreast]:
            _step(job, [other for other in waiting if other is not job])
        self._waiting(lane)

    def _waiting(self, lane: Lane) -> list[Job]:
        """Drop what is over, and return the rest."""
        self._lanes[lane] = [job for job in self._lanes[lane] if not job.over]
        return self._lanes[lane]

    def _drain_inbox(self) -> bool:
        while not self._inbox.empty():
            job = self._inbox.get_nowait()
            if job is None:
                return False
            self._accept(job)
        return True

    def _die(self, cause: BaseException) -> None:
        with self._lock:
            self._closed = True
        while not self._inbox.empty():
            job = self._inbox.get_nowait()
            if job is not None:
                self._accept(job)
        found = f"{type(cause).__name__}: {cause}"
        error = GritError(f"The model's thread has ended ({found}). Call unload(), and try again.")
        error.__cause__ = cause
        self._fail_all(error)

    def _abandon(self) -> None:
        self._fail_all(GritError("The model was unloaded before this request was finished. Send it again."))

    def _fail_all(self, error: GritError) -> None:
        for jobs in self._lanes.values():
            for job in jobs:
                job.fail(error)
            jobs.clear()


def _step(job: Job, peers: Sequence[Job]) -> None:
    try:
        job.step(peers)
    except Exception as error:  # whatever torch raises belongs to this job's caller, not to the worker
        job.fail(error)


def _work(reference: weakref.ref[Scheduler], inbox: queue.SimpleQueue[Job | None]) -> None:
    """Serve jobs. While idle, only a weak reference is held: dropping the last model frees weights and thread."""
    while True:
        job = inbox.get()
        scheduler = reference()
        if scheduler is None or job is None:
            return
        scheduler._accept(job)
        del job
        try:
            if not scheduler._run_until_idle():
                return
        except BaseException as error:  # a fault of ours: nobody may wait for a thread that has gone
            scheduler._die(error)
            raise
        del scheduler
