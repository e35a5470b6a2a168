"""Digests of files, remembered beside size, time and inode, so that 14 GB are read for it once on a machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Literal

_CHUNK = 1 << 22
_FRESH = 2.0  # seconds in which a file can change again without its time of change telling

Signature = tuple[int, int, int]

_known: dict[str, tuple[Signature, str]] = {}
_lock = threading.Lock()


def signature(path: Path) -> Signature:
    """Return what changes when a file is written anew: its size, its time in nanoseconds, its inode."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def file_digest(path: Path, algorithm: Literal["blake2b", "sha256"] = "blake2b") -> str:
    """Return the digest of all bytes of a file, from memory or disk if it has not changed since.

    BLAKE2b of 16 bytes is the package's own; SHA-256 is what others say of their files.
    """
    own = algorithm == "blake2b"
    key, now = f"{path.resolve()}{'' if own else f' {algorithm}'}", signature(path)
    with _lock:
        remembered = _known.get(key) or _read().get(key)
        if remembered is not None and remembered[0] == now:
            _known[key] = remembered
            return remembered[1]
    digest = _computed(path, hashlib.blake2b(digest_size=16) if own else hashlib.sha256())
    if signature(path) == now and time.time() - now[1] / 1e9 > _FRESH:
        with _lock:
            _known[key] = (now, digest)
            _write({**_read(), key: (now, digest)})
    return digest


def cache_folder() -> Path:
    """Return where this package keeps what is cheap to lose: `GRIT_CACHE`, else a folder of the user's cache."""
    named = os.environ.get("GRIT_CACHE")
    if named:
        return Path(named)
    user = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or "~/.cache"
    return Path(user).expanduser() / "grit_integrations"


def _computed(path: Path, digest: hashlib.blake2b | hashlib._Hash) -> str:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _read() -> dict[str, tuple[Signature, str]]:
    table = cache_folder() / "digests.json"
    if not table.is_file():  # a pipe in its place would be waited for
        return {}
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, RecursionError):
        stored = json.loads(table.read_text(encoding="utf-8"))
        return {str(key): ((int(a), int(b), int(c)), str(digest)) for key, ((a, b, c), digest) in stored.items()}
    return {}


def _write(table: dict[str, tuple[Signature, str]]) -> None:
    """Keep the table; where that is not possible, files are read again next time."""
    folder = cache_folder()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".digests")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(table, file)
        Path(temporary).replace(folder / "digests.json")
