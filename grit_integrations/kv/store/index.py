"""The index of a store: which block is in which file, when it was used, and what was measured. One sqlite file."""

from __future__ import annotations

import json
import math
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from grit_integrations.kv.speeds import Speeds
from grit_integrations.kv.store.files import key_of

VERSION = 1  # PRAGMA user_version
_SCHEMA = """
CREATE TABLE IF NOT EXISTS blocks (
  key TEXT PRIMARY KEY, file TEXT NOT NULL, bytes INTEGER NOT NULL, tokens INTEGER NOT NULL, namespace TEXT NOT NULL,
  created INTEGER NOT NULL, used INTEGER NOT NULL, hits INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS blocks_by_use ON blocks (used);
CREATE INDEX IF NOT EXISTS blocks_by_namespace ON blocks (namespace);
CREATE TABLE IF NOT EXISTS misses (key TEXT PRIMARY KEY, count INTEGER NOT NULL, seen INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS speeds (model TEXT, kind TEXT, value REAL NOT NULL, PRIMARY KEY (model, kind)) WITHOUT ROWID;
"""
_MOST_MISSES = 50_000  # rows; the oldest tenth goes when there are more
_LARGEST = 1 << 50  # bytes or tokens of a block, and counts; more is damage
_FASTEST = 1e15  # bytes or tokens a second; more is damage
_COLUMNS = "key, file, bytes, tokens, namespace, created, used"


class IndexRow(NamedTuple):
    """One block on disk; `created` and `used` are nanoseconds since 1970."""

    key: str
    file: str
    bytes: int
    tokens: int
    namespace: str
    created: int
    used: int

    @property
    def is_sound(self) -> bool:
        """Whether every value is one that this package writes; sqlite keeps a value of any type in any column."""
        texts, counts = (self.key, self.file, self.namespace), (self.bytes, self.tokens)
        return (
            all(type(text) is str and _is_unicode(text) for text in texts)
            and all(type(count) is int and 0 <= count <= _LARGEST for count in counts)
            and type(self.created) is int is type(self.used)
            and key_of(self.file) == self.key
        )


class Totals(NamedTuple):
    """What all rows add up to; `namespaces` holds blocks and bytes of each."""

    blocks: int
    bytes: int
    tokens: int
    namespaces: dict[str, tuple[int, int]]


class Committed(NamedTuple):
    """What a transaction did: the file that each inserted key has now, and the rows that had to go."""

    files: dict[str, str]
    evicted: list[IndexRow]


class OtherVersionError(sqlite3.DatabaseError):
    """An index that another version of this package wrote."""


class Index:
    """One connection to the index, safe for threads. Every method may raise sqlite3.Error.

    Args:
        path: the sqlite file, created if it is not there.
        wait: seconds to wait for another process's transaction.
        mode: sqlite's: "rwc", or "ro" for a store that cannot be written to; "memory" forgets.
        checkpoints: whether a write may also tidy the journal, which takes milliseconds.

    Raises:
        OtherVersionError: another version of this package wrote it.
        sqlite3.Error: not a database, locked, or not readable.
    """

    def __init__(self, path: Path, *, wait: float, mode: str = "rwc", checkpoints: bool = True) -> None:
        self._lock = threading.RLock()
        self._admitted = 0
        # A folder that cannot be written to holds no journal either: sqlite reads the file alone if told to.
        query = "immutable=1" if mode == "immutable" else f"mode={mode}"
        self.is_writable = mode in ("rwc", "memory")
        target = f"{path.absolute().as_uri()}?{query}"
        self._db = sqlite3.connect(target, uri=True, check_same_thread=False, timeout=wait, isolation_level=None)
        self._db.text_factory = _as_text
        try:
            self._prepare(write=self.is_writable, checkpoints=checkpoints)
        except BaseException:
            self._db.close()
            raise

    def wait_for_others(self, seconds: float) -> None:
        """Set how long to wait for another process's transaction from now on."""
        with self._lock:
            self._db.execute(f"PRAGMA busy_timeout={int(seconds * 1000)}")

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._db.close()

    # Blocks

    def find(self, key: str) -> IndexRow | None:
        """Return a block's row."""
        rows = self._rows("WHERE key = ?", [key])
        return rows[0] if rows else None

    def rows(self) -> list[IndexRow]:
        """Return all rows."""
        return self._rows("", [])

    def known(self, keys: Iterable[str]) -> set[str]:
        """Return those of `keys` that have a row."""
        return {row.key for row in self._rows(*_among(keys))}

    def commit(self, rows: Sequence[IndexRow], uses: Mapping[str, tuple[int, int]], max_bytes: int | None) -> Committed:
        """Insert rows for keys that have none, note uses (time, hits), and evict the least recently used, at once."""
        keys = [row.key for row in rows]
        with self._transaction():
            self._drop_unsound(*_among(keys))
            self._db.executemany(f"INSERT OR IGNORE INTO blocks ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", rows)  # noqa: S608
            self._db.executemany(
                "UPDATE blocks SET used = max(used, ?), hits = hits + ? WHERE key = ?",
                [(used, hits, key) for key, (used, hits) in uses.items()],
            )
            self._clamp_times(min((row.used for row in rows), default=None))
            found = self._rows(*_among(keys))
            evicted = [] if max_bytes is None else self._evict(max_bytes)
        return Committed({row.key: row.file for row in found}, evicted)

    def drop_unsound(self) -> None:
        """Delete rows that nobody wrote, as damage leaves them, and times that have not come yet."""
        with self._transaction():
            self._drop_unsound("", [])
            self._clamp_times(None)

    @contextmanager
    def deleting(self, keys: Iterable[str] | None = None, *, namespace: str | None = None) -> Iterator[list[IndexRow]]:
        """Delete the rows of keys, of a namespace, or (neither given) all, and give them; an error brings them back."""
        where, values = "", list[object]()
        if keys is not None:
            where, values = _among(keys)
        elif namespace is not None:
            where, values = "WHERE namespace = ?", [namespace]
        with self._transaction():
            rows = self._rows(where, values)
            self._db.execute(f"DELETE FROM blocks {where}", values)  # noqa: S608 - one of the texts above
            yield rows

    def forget(self, key: str, file: str) -> bool:
        """Delete a row whose file is gone or bad, unless the key has another file by now."""
        with self._transaction():
            return self._db.execute("DELETE FROM blocks WHERE key = ? AND file = ?", [key, file]).rowcount > 0

    def totals(self) -> Totals:
        """Return sums over all rows."""
        rows, namespaces = self.rows(), dict[str, tuple[int, int]]()
        for row in rows:
            blocks, size = namespaces.get(row.namespace, (0, 0))
            namespaces[row.namespace] = blocks + 1, size + row.bytes
        return Totals(len(rows), sum(row.bytes for row in rows), sum(row.tokens for row in rows), namespaces)

    # Misses and speeds

    def count_miss(self, key: str) -> int:
        """Note one more miss of a key; return how many there were."""
        with self._lock:
            self._admitted += 1
            if self._admitted % 1000 == 0:
                self._trim_misses()
            with self._transaction():
                self._db.execute(
                    "INSERT INTO misses VALUES (?, 1, ?) ON CONFLICT (key) DO UPDATE SET seen = excluded.seen, count = "
                    "CASE WHEN typeof(count) = 'integer' AND count BETWEEN 0 AND ? THEN count + 1 ELSE 1 END",
                    [key, time.time_ns(), _LARGEST],
                )
                found = self._db.execute("SELECT count FROM misses WHERE key = ?", [key]).fetchone()
            return found[0] if found else 1

    def forget_misses(self) -> None:
        """Forget all misses."""
        with self._lock:
            self._db.execute("DELETE FROM misses")

    def speeds(self, model: str) -> Speeds:
        """Return what was measured for a model."""
        with self._lock:
            rows = self._db.execute("SELECT kind, value FROM speeds WHERE model = ?", [model]).fetchall()
        return Speeds(**{kind: value for kind, value in rows if kind in ("prefill", "load") and _is_speed(value)})

    def record_speeds(self, model: str, measured: Mapping[str, float]) -> None:
        """Keep the first measurement of each kind; one that cannot be is replaced."""
        with self._transaction():
            self._db.executemany(
                "INSERT INTO speeds VALUES (?, ?, ?) ON CONFLICT (model, kind) DO UPDATE SET value = excluded.value "
                "WHERE typeof(value) <> 'real' OR NOT value BETWEEN 0 AND ?",
                [(model, kind, value, _FASTEST) for kind, value in measured.items()],
            )

    # Inside

    def _prepare(self, *, write: bool, checkpoints: bool) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if version != VERSION and (version != 0 or tables != 0):
            raise OtherVersionError(f"The index has version {version}, wanted {VERSION}.")
        if write:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")  # a row lost with the power is found again from its file
            if not checkpoints:
                self._db.execute("PRAGMA wal_autocheckpoint=0")
            if version == 0:
                self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={VERSION}; COMMIT;")
        self._db.execute("SELECT count(*) FROM blocks").fetchone()

    def check(self) -> None:
        """Raise sqlite3.DatabaseError if the file is damaged."""
        with self._lock:
            found = self._db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(f"The index is damaged: {found}.")
        for row in self._all_rows("", []):
            if not row.is_sound:
                raise sqlite3.DatabaseError(f"The index has a row that nobody wrote, for {row.file!r}.")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            if self._db.in_transaction:
                yield
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _all_rows(self, clause: str, values: Sequence[object]) -> Iterator[IndexRow]:
        """Yield rows, also those that nobody wrote."""
        return map(IndexRow._make, self._db.execute(f"SELECT {_COLUMNS} FROM blocks {clause}", values))  # noqa: S608

    def _rows(self, clause: str, values: Sequence[object]) -> list[IndexRow]:
        with self._lock:
            return [row for row in self._all_rows(clause, values) if row.is_sound]

    def _drop_unsound(self, clause: str, values: Sequence[object]) -> None:
        found = self._db.execute(f"SELECT CAST(key AS BLOB), {_COLUMNS} FROM blocks {clause}", values)  # noqa: S608
        bad = [(key,) for key, *row in found if not IndexRow(*row).is_sound]
        self._db.executemany("DELETE FROM blocks WHERE CAST(key AS BLOB) = ?", bad)

    def _clamp_times(self, newest: int | None) -> None:
        """Let no row have been used later than now: a clock that was ahead would keep it for ever, and new blocks go.

        Such a row becomes a little older than `newest`, the row that is being written.
        """
        now = time.time_ns()
        self._db.execute("UPDATE blocks SET used = ? WHERE used > ?", [min(now, newest or now) - 1, now])

    def _evict(self, max_bytes: int) -> list[IndexRow]:
        sound = f"CASE WHEN typeof(bytes) = 'integer' AND bytes BETWEEN 0 AND {_LARGEST} THEN bytes END"
        over = self._db.execute(f"SELECT coalesce(sum({sound}), 0) FROM blocks").fetchone()[0] - max_bytes  # noqa: S608
        evicted: list[IndexRow] = []
        if over <= 0:
            return evicted
        for row in self._all_rows("ORDER BY used, created, key", []):
            if row.is_sound:
                evicted.append(row)
                over -= row.bytes
            if over <= 0:
                break
        self._db.executemany("DELETE FROM blocks WHERE key = ?", [(row.key,) for row in evicted])
        return evicted

    def _trim_misses(self) -> None:
        now = time.time_ns()
        self._db.execute("UPDATE misses SET seen = ? WHERE seen > ?", [now, now])
        self._db.execute(
            "DELETE FROM misses WHERE seen < (SELECT seen FROM misses ORDER BY seen DESC LIMIT 1 OFFSET ?)",
            [_MOST_MISSES],
        )


def _among(keys: Iterable[str]) -> tuple[str, list[object]]:
    """Return the clause, with its value, that chooses the rows of keys."""
    return "WHERE key IN (SELECT value FROM json_each(?))", [json.dumps(list(keys))]


def _as_text(data: bytes) -> str:
    # Strictly decoded, one damaged text would fail the whole query rather than its row.
    return data.decode(errors="surrogateescape")


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _is_speed(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and 0 < value <= _FASTEST
