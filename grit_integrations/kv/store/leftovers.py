"""Temporary files of a store: their names say whose they are, so that those of dead processes can be deleted."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
import uuid
from contextlib import suppress
from pathlib import Path

RUN = uuid.uuid4().hex
_OLD = 3600  # seconds after which a temporary file is nobody's, wherever its process runs
_NAME = re.compile(r"([0-9a-f]{8})-([0-9]+)-([0-9a-f]{32})-[0-9a-f]{32}")  # machine, process, its start, file


def _machine() -> str:
    """Return what tells process ids of this machine (or container) from those of another."""
    try:
        space = Path("/proc/self/ns/pid").readlink()
    except OSError:
        space = Path()
    return hashlib.blake2b(f"{socket.gethostname()} {space}".encode(), digest_size=4).hexdigest()


_MACHINE = _machine()


def temporary_name() -> str:
    """Return a new name, which says whose it is."""
    return f"{_MACHINE}-{os.getpid()}-{RUN}-{uuid.uuid4().hex}"


def is_temporary(name: str) -> bool:
    """Whether a name is one that a store has given to a temporary file."""
    return _NAME.fullmatch(name) is not None


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files of processes that died, or that are old; nothing that has another name.

    Raises:
        OSError: the folder cannot be read.
    """
    for path in folder.iterdir():
        if is_temporary(path.name):
            with suppress(OSError):
                if _is_abandoned(path.name) or time.time() - path.lstat().st_mtime > _OLD:
                    path.unlink()


def _is_abandoned(name: str) -> bool:
    match = _NAME.fullmatch(name)
    if match is None or match[1] != _MACHINE:
        return False
    if int(match[2]) == os.getpid():
        return match[3] != RUN  # an earlier process with the same number, as in a container that was started again
    try:
        os.kill(int(match[2]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
