"""Which passages of which files are in the index: LangChain's record manager on one sqlite file.

langchain-core ships only one that forgets. `langchain_classic.indexes.SQLRecordManager` is not used: it brings
SQLAlchemy, drops a record's file when it is refreshed (an interruption then leaves passages that nothing can clean
up), counts time in steps of a millisecond that may run backwards, and cannot limit a full clean-up to some files.
"""

from __future__ import annotations

import asyncio
import copy
import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from langchain_core.indexing import RecordManager

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (key TEXT PRIMARY KEY, file TEXT, updated_at REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS records_by_file ON records (file, updated_at);
CREATE TABLE IF NOT EXISTS files (file TEXT PRIMARY KEY, signature TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY) WITHOUT ROWID;
"""
_TICK = 1e-5  # seconds; well above a float's resolution of the present time


class SqliteRecordManager(RecordManager):
    """A persistent record manager for `langchain_core.indexing.index`, with the state of whole files beside it.

    The group of a record is the file that its passage comes from. `within(files)` limits `cleanup="full"` to those.

    Args:
        path: the sqlite file, created if it is not there.
        namespace: LangChain's name for one set of records; a file holds one.

    Example:
        >>> records = SqliteRecordManager(":memory:")
        >>> records.update(["a", "b"], group_ids=["one.txt", "two.txt"])
        >>> records.within(["one.txt"]).list_keys()
        ['a']
    """

    def __init__(self, path: str | Path, namespace: str = "passages") -> None:
        super().__init__(namespace)
        self._files: frozenset[str] | None = None
        self._lock = threading.RLock()
        self._db = sqlite3.connect(str(path), check_same_thread=False, timeout=30, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self.create_schema()

    def within(self, files: Iterable[str]) -> SqliteRecordManager:
        """Return a view on the same records in which listing sees only those of `files`."""
        view = copy.copy(self)
        view._files = frozenset(files)
        return view

    def close(self) -> None:
        """Close the sqlite file."""
        self._db.close()

    def create_schema(self) -> None:
        """Create the tables that are not there."""
        with self._lock:
            self._db.executescript(_SCHEMA)

    def get_time(self) -> float:
        """Return the present time in seconds, later than that of any record even if the clock was set back."""
        with self._lock:
            newest = self._db.execute("SELECT max(updated_at) FROM records").fetchone()[0] or 0.0
        return max(time.time(), newest + _TICK)

    def update(
        self, keys: Sequence[str], *, group_ids: Sequence[str | None] | None = None, time_at_least: float | None = None
    ) -> None:
        """Insert or refresh records in one transaction; a refresh without groups keeps the groups.

        Raises:
            ValueError: not as many groups as keys.
        """
        if group_ids is None:
            group_ids = [None] * len(keys)
        if len(keys) != len(group_ids):
            raise ValueError(f"{len(keys)} keys and {len(group_ids)} group ids do not match.")
        now = max(time.time(), time_at_least or 0.0)
        with self._lock, self._db:
            self._db.execute("BEGIN")
            self._db.executemany(
                "INSERT INTO records VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
                "file = coalesce(excluded.file, file), updated_at = excluded.updated_at",
                [(key, group, now) for key, group in zip(keys, group_ids, strict=True)],
            )

    def exists(self, keys: Sequence[str]) -> list[bool]:
        """Return for each key whether it is recorded."""
        with self._lock:
            rows = self._db.execute(
                "SELECT key FROM records WHERE key IN (SELECT value FROM json_each(?))", [json.dumps(list(keys))]
            ).fetchall()
        known = {key for (key,) in rows}
        return [key in known for key in keys]

    def list_keys(
        self,
        *,
        before: float | None = None,
        after: float | None = None,
        group_ids: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> list[str]:
        """Return the keys updated before and after the given times, of the given files (an empty list is no file)."""
        groups = None if group_ids is None else set(group_ids)
        if self._files is not None:
            groups = set(self._files) if groups is None else groups & self._files
        with self._lock:
            rows = self._db.execute(
                "SELECT key FROM records WHERE (:before IS NULL OR updated_at < :before) "
                "AND (:after IS NULL OR updated_at > :after) "
                "AND (:groups IS NULL OR file IN (SELECT value FROM json_each(:groups))) "
                "ORDER BY updated_at, key LIMIT :limit",
                {
                    "before": before,
                    "after": after,
                    "groups": None if groups is None else json.dumps(sorted(groups)),
                    "limit": -1 if limit is None else limit,
                },
            ).fetchall()
        return [key for (key,) in rows]

    def delete_keys(self, keys: Sequence[str]) -> None:
        """Forget records."""
        with self._lock:
            self._db.execute(
                "DELETE FROM records WHERE key IN (SELECT value FROM json_each(?))", [json.dumps(list(keys))]
            )

    # Whole files

    def signatures(self) -> dict[str, str]:
        """Return the signature of every file that was indexed to its end."""
        with self._lock:
            return dict(self._db.execute("SELECT file, signature FROM files").fetchall())

    def known_files(self) -> set[str]:
        """Return every file that has records or a signature, whether it was indexed to its end or not."""
        with self._lock:
            rows = self._db.execute("SELECT file FROM files UNION SELECT file FROM records WHERE file IS NOT NULL")
            return {file for (file,) in rows}

    def files_of(self, keys: Sequence[str]) -> set[str]:
        """Return the files that the records of `keys` belong to."""
        with self._lock:
            rows = self._db.execute(
                "SELECT DISTINCT file FROM records WHERE file IS NOT NULL AND key IN (SELECT value FROM json_each(?))",
                [json.dumps(list(keys))],
            ).fetchall()
        return {file for (file,) in rows}

    def complete(self, signatures: dict[str, str]) -> None:
        """Note that files are indexed to their end in the state that their signature names."""
        with self._lock, self._db:
            self._db.execute("BEGIN")
            self._db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?)", list(signatures.items()))

    def forget(self, files: Iterable[str]) -> None:
        """Take back `complete`."""
        with self._lock:
            self._db.execute(
                "DELETE FROM files WHERE file IN (SELECT value FROM json_each(?))", [json.dumps(sorted(files))]
            )

    @property
    def interrupted(self) -> bool:
        """Whether the last run that wrote to the index did not come to its end."""
        with self._lock:
            return self._db.execute("SELECT 1 FROM marks WHERE name = 'writing'").fetchone() is not None

    @interrupted.setter
    def interrupted(self, value: bool) -> None:
        statement = "INSERT OR IGNORE INTO marks VALUES ('writing')" if value else "DELETE FROM marks"
        with self._lock:
            self._db.execute(statement)

    # LangChain's asynchronous twins

    async def acreate_schema(self) -> None:
        """Create the tables that are not there."""
        await asyncio.to_thread(self.create_schema)

    async def aget_time(self) -> float:
        """Return the present time; see `get_time`."""
        return await asyncio.to_thread(self.get_time)

    async def aupdate(
        self, keys: Sequence[str], *, group_ids: Sequence[str | None] | None = None, time_at_least: float | None = None
    ) -> None:
        """Insert or refresh records; see `update`."""
        await asyncio.to_thread(partial(self.update, keys, group_ids=group_ids, time_at_least=time_at_least))

    async def aexists(self, keys: Sequence[str]) -> list[bool]:
        """Return for each key whether it is recorded."""
        return await asyncio.to_thread(self.exists, keys)

    async def alist_keys(
        self,
        *,
        before: float | None = None,
        after: float | None = None,
        group_ids: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> list[str]:
        """Return keys; see `list_keys`."""
        list_keys = partial(self.list_keys, before=before, after=after, group_ids=group_ids, limit=limit)
        return await asyncio.to_thread(list_keys)

    async def adelete_keys(self, keys: Sequence[str]) -> None:
        """Forget records."""
        await asyncio.to_thread(self.delete_keys, keys)
