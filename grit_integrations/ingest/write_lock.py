"""One writer at a time: a directory that a process holds while it changes the index there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from grit_integrations.errors import IngestError

LOCK = "lock"


@contextmanager
def writing_to(directory: Path) -> Iterator[None]:
    """Hold an existing directory for writing; the thread that holds it may do so again inside.

    Raises:
        IngestError: another process or thread holds it, or nothing can be written there.
    """
    lock = FileLock(directory.resolve() / LOCK, timeout=0, is_singleton=True)  # one lock by whichever path
    try:
        lock.acquire()
    except Timeout:
        raise IngestError(f"Another process is writing to the store at {directory}. Wait until it is done.") from None
    except OSError as error:
        raise IngestError(
            f"The store at {directory} cannot be written: {error.strerror or error}. Copy it to where you may write."
        ) from error
    try:
        yield
    finally:
        lock.release()
