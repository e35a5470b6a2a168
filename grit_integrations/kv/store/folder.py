"""The folder that a store's files lie in: where each belongs, what is moved aside, and the lock."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from grit_integrations.kv.store.files import key_of

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_RUN = uuid.uuid4().hex
_LEFTOVER_AGE = 3600  # seconds after which a temporary file is nobody's, wherever its process runs
_MOST_QUARANTINED = 16


class Folder:
    """Where a store's files lie: `blocks/`, `tmp/`, `quarantine/` and the index, below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.index = root / "index.sqlite"
        self.lock = root / "index.lock"
        self._blocks, self._temporary, self._quarantine = (root / name for name in ("blocks", "tmp", "quarantine"))

    def create(self) -> bool:
        """Create what is not there; return whether files can be written. A root that exists keeps its mode.

        Raises:
            OSError: it cannot be created, or not even be read.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self._blocks, self._temporary, self._quarantine):
                folder.mkdir(mode=0o700, exist_ok=True)
            os.close(os.open(self.index, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError:
            os.scandir(self._blocks).close()
            return False
        return all(os.access(folder, os.W_OK | os.X_OK) for folder in (self.root, self._blocks, self._temporary))

    def path(self, name: str) -> Path:
        """Return where a block's file lies."""
        # An index that somebody altered must not lead out of the folder.
        return self._blocks / name[:2] / name if key_of(name) else self._blocks / "unknown"

    def temporary(self) -> Path:
        """Return a new temporary name, which says whose it is."""
        return self._temporary / f"{_HOST}-{os.getpid()}-{_RUN}-{uuid.uuid4().hex}"

    def place(self, temporary: Path, name: str) -> None:
        """Move a written file to where it belongs, for good."""
        path = self.path(name)
        if not path.parent.is_dir():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            _sync(self._blocks)
        temporary.replace(path)
        _sync(path.parent)

    def remove(self, name: str) -> None:
        """Delete a block's file, if it is there and can be."""
        with contextlib.suppress(OSError):
            self.path(name).unlink(missing_ok=True)

    def erase(self, keys: Iterable[str]) -> set[str]:
        """Delete every file of these keys, indexed or not, also from quarantine; return the keys that had one.

        Raises:
            OSError: a file cannot be deleted.
        """
        wanted, erased = set(keys), set()
        shards = {self._blocks / key[:2] for key in wanted}
        folders = [shard for shard in shards if shard.is_dir()]
        for path in [path for folder in folders for path in folder.iterdir()]:
            if (key := key_of(path.name)) in wanted:
                path.unlink(missing_ok=True)
                erased.add(str(key))
        for path in self.quarantined():
            if key_of(path.name.partition("-")[2]) in wanted:
                path.unlink(missing_ok=True)
        return erased

    def quarantine(self, path: Path) -> None:
        """Move a bad file out of the way and keep the newest few; one that cannot be moved stays."""
        with contextlib.suppress(OSError):
            path.replace(self._quarantine / f"{time.time_ns()}-{path.name}"[:255])
            for old in self.quarantined()[:-_MOST_QUARANTINED]:
                old.unlink(missing_ok=True)

    def quarantined(self) -> list[Path]:
        """Return the bad files, oldest first."""
        return sorted(self._quarantine.iterdir())

    def clear_quarantine(self) -> None:
        """Delete the bad files."""
        with contextlib.suppress(OSError):
            for path in self.quarantined():
                path.unlink(missing_ok=True)

    def scan(self) -> dict[Path, int]:
        """Return every file below `blocks/` and its bytes."""
        found = {}
        for folder in self._blocks.iterdir():
            with contextlib.suppress(NotADirectoryError), os.scandir(folder) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        if entry.is_file(follow_symlinks=False):
                            found[Path(entry.path)] = entry.stat(follow_symlinks=False).st_size
        return found

    def remove_leftovers(self) -> None:
        """Delete temporary files of processes that died, or that are old."""
        for path in self._temporary.iterdir():
            with contextlib.suppress(OSError):
                if _is_abandoned(path.name) or time.time() - path.stat().st_mtime > _LEFTOVER_AGE:
                    path.unlink()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock under which processes open, check and rebuild the index, where the system has such locks."""
        if fcntl is None:
            yield
            return
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _wait_for(descriptor)
            yield
        finally:
            os.close(descriptor)


def _wait_for(descriptor: int) -> None:
    """Lock a file, or go on without after ten seconds: a process that hangs must not keep all others from starting."""
    deadline = time.monotonic() + 10
    with contextlib.suppress(OSError):  # a network folder without locks
        while time.monotonic() < deadline and not _locks(descriptor):
            time.sleep(0.05)


def _locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _host() -> str:
    """Return what tells process ids of this machine (or container) from those of another."""
    try:
        space = Path("/proc/self/ns/pid").readlink()
    except OSError:
        space = Path()
    return hashlib.blake2b(f"{socket.gethostname()} {space}".encode(), digest_size=4).hexdigest()


_HOST = _host()


def _is_abandoned(name: str) -> bool:
    host, pid, run, *_ = [*name.split("-"), "", "", ""]
    if host != _HOST or not pid.isdecimal():
        return False
    if int(pid) == os.getpid():
        return run != _RUN  # an earlier process with the same number, as in a container that was started again
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _sync(folder: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    with contextlib.suppress(PermissionError):  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
