"""Recovery from faults: which ones cost a miss rather than an answer, and the error that each amounts to."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

from grit_integrations.errors import CacheError, CacheFullError
from grit_integrations.kv.sizes import format_size

# Damaged tables make sqlite give messages, or values, that Python cannot read.
FAULTS = (OSError, sqlite3.Error, UnicodeDecodeError, CacheError, MemoryError)
_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
_NOT_DAMAGED = ("locked", "busy", "I/O error", "unable to open", "readonly", "is full", "protocol")  # sqlite's words


def is_full(error: BaseException) -> bool:
    """Whether a fault says that the disk has no room."""
    return (isinstance(error, OSError) and error.errno in _FULL) or (
        isinstance(error, sqlite3.Error) and "is full" in str(error)
    )


def lacks_room(error: BaseException) -> bool:
    """Whether a fault is one that a full disk causes; where sqlite's own files have no room, it says other things."""
    hidden = ("disk I/O", "unable to open")
    return is_full(error) or (isinstance(error, sqlite3.Error) and any(sign in str(error) for sign in hidden))


def is_damage(error: BaseException) -> bool:
    """Whether a fault says that the index holds what sqlite did not write, rather than that it cannot be reached."""
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.ProgrammingError):
        return not any(sign in str(error) for sign in _NOT_DAMAGED)
    return isinstance(error, UnicodeDecodeError)


def as_cache_error(error: BaseException, path: Path | None) -> CacheError:
    """Return the error of this package that a fault amounts to."""
    if isinstance(error, CacheError):
        return error
    if is_full(error):
        return CacheFullError(f"The disk has no room at {path}: {error}. Free some, or lower max_bytes.")
    return CacheError(
        f"The KV cache at {path} cannot be used as asked ({type(error).__name__}: {error}). "
        "It needs a folder that can be read and written; path=None keeps blocks in RAM only."
    )


def too_large(found: int, limit: int) -> CacheFullError:
    """Return the error for a block that is larger than the bound of the files."""
    return CacheFullError(
        f"A block of {format_size(found)} is larger than max_bytes={format_size(limit)}. "
        "Raise max_bytes to keep it on disk."
    )
