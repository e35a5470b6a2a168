"""The folder that a store's files lie in: where each belongs, what is moved aside, and the lock."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from grit_integrations.errors import CacheError
from grit_integrations.kv.store.files import key_of
from grit_integrations.kv.store.leftovers import is_temporary, remove_leftovers, temporary_name
from grit_integrations.kv.store.marker import check_owned, mark
from grit_integrations.kv.store.recovery import is_full
from grit_integrations.kv.store.regular import discard, kind_of

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger(__name__)

_MOST_QUARANTINED = 16
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_SHARD = re.compile(r"[0-9a-f]{2}")
_FIXED = re.compile(r"index\.sqlite(-wal|-shm|-journal)?|index\.lock|blocks|tmp|quarantine|[0-9a-f]{2}")


class Folder:
    """Where a store's files lie: `blocks/`, `tmp/`, `quarantine/` and the index, below `root`.

    Only what has one of the store's names is ever moved or deleted. What has such a name and is no regular file, or no
    real folder, is moved to quarantine: no link inside `root` is followed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.index = root / "index.sqlite"
        self.lock = root / "index.lock"
        self._blocks, self._temporary, self._quarantine = (root / name for name in ("blocks", "tmp", "quarantine"))

    def create(self) -> bool:
        """Create what is not there; return whether files may be written. A root that exists keeps its mode.

        Raises:
            CacheError: the folder is somebody else's.
            OSError: it cannot be created, or not even be read.
        """
        check_owned(self.root)
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            mark(self.root)
            self._make_quarantine()
            self._make(self._blocks)
            self._make(self._temporary)
            for path in (self.lock, *self.index_files()):
                self.settle(path, "file")
            if kind_of(self.index) is None:  # closing a file drops the locks that sqlite has on it in this process
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(self.index, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError as error:
            if (error.errno not in _FORBIDDEN and not is_full(error)) or kind_of(self._blocks) is None:
                raise
        self._check_readable()
        folders = (self.root, self._blocks, self._temporary)
        return all(os.access(folder, os.W_OK | os.X_OK) for folder in folders) and os.access(self.index, os.W_OK)

    def index_files(self) -> list[Path]:
        """Return the index and what sqlite keeps beside it."""
        return [self.index.with_name(self.index.name + suffix) for suffix in ("", "-wal", "-shm", "-journal")]

    def index_inode(self) -> int | None:
        """Return what tells the index in its place from another that was put there."""
        try:
            return self.index.lstat().st_ino
        except OSError:
            return None

    def path(self, name: str) -> Path:
        """Return where a block's file lies."""
        # An index that somebody altered must not lead out of the folder.
        return self._blocks / name[:2] / name if key_of(name) else self._blocks / "unknown"

    def holds(self, name: str) -> bool:
        """Whether a block's file is there, as a regular file in a real folder.

        Raises:
            OSError: it cannot be looked at.
        """
        return self.has_shard(name) and kind_of(self.path(name)) == "file"

    def has_shard(self, name: str) -> bool:
        """Whether the folder of a block's file is there; what stands in its place is moved aside, not followed.

        Raises:
            OSError: it cannot be looked at.
        """
        return self.settle(self._blocks, "folder") and self.settle(self.path(name).parent, "folder")

    def settle(self, path: Path, wanted: str) -> bool:
        """Move aside what is not the `"file"` or `"folder"` wanted at a path; return whether that is there."""
        found = kind_of(path)
        if found not in (wanted, None):
            _log.warning("%s is a %s, wanted a %s. It is moved to quarantine.", path, found, wanted)
            self.quarantine(path)
        return found == wanted

    def temporary(self) -> Path:
        """Return a new temporary name, which says whose it is.

        Raises:
            OSError: the folder for it is not there and cannot be made.
        """
        self._make(self._temporary)
        return self._temporary / temporary_name()

    def place(self, temporary: Path, name: str) -> None:
        """Move a written file to where it belongs, for good."""
        path = self.path(name)
        self._make(self._blocks)
        if self._make(path.parent):
            _sync(self._blocks)
        self.settle(path, "file")
        temporary.replace(path)
        _sync(path.parent)

    def remove(self, name: str) -> None:
        """Delete a block's file, if it is there and can be."""
        with contextlib.suppress(OSError):
            if self.has_shard(name):
                self.path(name).unlink(missing_ok=True)

    def erase(self, keys: Iterable[str]) -> set[str]:
        """Delete every file of these keys, indexed or not, also from quarantine; return the keys that had one.

        Raises:
            OSError: a file cannot be deleted.
        """
        wanted, erased = set(keys), set()
        shards = {self._blocks / key[:2] for key in wanted} if self.settle(self._blocks, "folder") else set()
        folders = [shard for shard in shards if self.settle(shard, "folder")]
        for path in [path for folder in folders for path in folder.iterdir()]:
            if (key := key_of(path.name)) in wanted:
                discard(path)
                erased.add(str(key))
        for path in self.quarantined():
            if key_of(path.name.partition("-")[2]) in wanted:
                discard(path)
        return erased

    def quarantine(self, path: Path) -> None:
        """Move something bad out of the way and keep the newest few; what cannot be moved stays."""
        with contextlib.suppress(OSError):
            moved = self._quarantine / f"{time.time_ns()}-{path.name}"
            path.replace(moved)
            # Not by name alone: what was moved under a clock that was ahead must not push out the newest.
            others = [old for old in self.quarantined() if old != moved]
            for old in others[: max(len(others) + 1 - _MOST_QUARANTINED, 0)]:
                discard(old)

    def quarantined(self) -> list[Path]:
        """Return what was moved aside, oldest first; nothing that somebody else put there.

        Raises:
            OSError: the folder cannot be read.
        """
        if kind_of(self._quarantine) != "folder":
            return []
        return sorted(path for path in self._quarantine.iterdir() if _was_moved_aside(path.name))

    def clear_quarantine(self) -> None:
        """Delete what was moved aside.

        Raises:
            OSError: a file cannot be deleted.
        """
        for path in self.quarantined():
            discard(path)

    def scan(self) -> tuple[dict[Path, int], list[Path]]:
        """Return every block's file below `blocks/` with its bytes, and what else stands under such a name.

        Raises:
            OSError: a folder cannot be read.
        """
        found: dict[Path, int] = {}
        odd: list[Path] = []
        for shard in self._blocks.iterdir():
            if _SHARD.fullmatch(shard.name) is None:
                continue
            if kind_of(shard) == "folder":
                with contextlib.suppress(FileNotFoundError):
                    _scan_shard(shard, found, odd)
            else:
                odd.append(shard)
        return found, odd

    def remove_leftovers(self) -> None:
        """Delete temporary files of processes that died, or that are old."""
        if kind_of(self._temporary) == "folder":
            remove_leftovers(self._temporary)

    @contextlib.contextmanager
    def locked(self, wait: float) -> Iterator[None]:
        """Hold the lock under which processes open, check and rebuild the index, where the system has such locks.

        Raises:
            OSError: the lock's file cannot be opened, or (without patience) another process holds it.
        """
        if fcntl is None:
            yield
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(self.lock, flags, 0o600)
        try:
            _wait_for(descriptor, wait)
            yield
        finally:
            os.close(descriptor)

    def _make(self, folder: Path) -> bool:
        """Make a folder if it is not there; return whether it was made."""
        if self.settle(folder, "folder"):
            return False
        folder.mkdir(mode=0o700, exist_ok=True)
        return True

    def _make_quarantine(self) -> None:
        aside = None
        if kind_of(self._quarantine) not in ("folder", None):
            aside = self.root / f"{time.time_ns()}-{self._quarantine.name}"
            self._quarantine.replace(aside)
        self._quarantine.mkdir(mode=0o700, exist_ok=True)
        if aside is not None:
            aside.replace(self._quarantine / aside.name)

    def _check_readable(self) -> None:
        if (found := kind_of(self._blocks)) not in ("folder", None):
            raise CacheError(f"{self._blocks} is a {found}, wanted a folder. Remove it, or give another path.")
        os.scandir(self._blocks).close()


def _scan_shard(shard: Path, found: dict[Path, int], odd: list[Path]) -> None:
    with os.scandir(shard) as entries:
        for entry in entries:
            if key_of(entry.name) is None:
                continue
            with contextlib.suppress(FileNotFoundError):
                if entry.is_file(follow_symlinks=False):
                    found[Path(entry.path)] = entry.stat(follow_symlinks=False).st_size
                else:
                    odd.append(Path(entry.path))


def _was_moved_aside(name: str) -> bool:
    when, _, rest = name.partition("-")
    ours = key_of(rest) is not None or is_temporary(rest) or _FIXED.fullmatch(rest) is not None
    return when.isdecimal() and ours


def _wait_for(descriptor: int, wait: float) -> None:
    """Lock a file; after some seconds go on without: a process that hangs must not keep all others from starting.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is 0.
    """
    deadline = time.monotonic() + wait
    while not _locks(descriptor):
        if wait == 0:
            raise BlockingIOError(errno.EAGAIN, "another process is opening this KV cache")
        if time.monotonic() >= deadline:
            return
        time.sleep(0.05)


def _locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a network folder without locks
    return True


def _sync(folder: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    with contextlib.suppress(PermissionError):  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
