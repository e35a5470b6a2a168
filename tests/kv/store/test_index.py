"""The index: whatever stands in its rows, blocks are right, nothing raw is raised, and no time to come counts."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_child import make_block, same
from store_processes import block_files

from grit_integrations.kv.speeds import Speeds
from grit_integrations.kv.store.store import KVCacheStore

KEYS = ["aa", "bb", "cc"]
ODD = [None, b"\xff\xfe", "x", "../../etc/passwd", "\0", -1, 0, 2**62, float("inf"), float("nan"), 1.5]
COLUMNS = {
    "blocks": ("key = 'bb'", ["key", "file", "bytes", "tokens", "namespace", "created", "used", "hits"]),
    "misses": ("key = 'dd'", ["key", "count", "seen"]),
    "speeds": ("kind = 'load'", ["model", "kind", "value"]),
}


def filled(kv: Path) -> None:
    with KVCacheStore(kv, namespace="tenant") as store:
        for key in KEYS:
            store.put(key, make_block(key))
        store.flush()
        store.admit("dd", 3)
        store.record_speed("model", prefill=10.0, load=20.0)


def alter(kv: Path, table: str, column: str, value: object) -> bool:
    """Put a value into one row; False if the schema itself refuses it."""
    where, _ = COLUMNS[table]
    with sqlite3.connect(kv / "index.sqlite") as index:
        try:
            index.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", [value])
        except sqlite3.IntegrityError:
            return False
    index.close()
    return True


def use(store: KVCacheStore) -> None:
    """Do everything that reads the index, and expect what is expected of an undamaged one."""
    for key in KEYS:
        found = store.get(key)
        assert found is None or same(found, make_block(key))
        assert store.disk_bytes(key) is None or 0 <= store.disk_bytes(key) <= 1 << 50
    store.contains(KEYS)
    assert store.admit("dd", 10**6) is False
    assert all(
        speed is None or 0 < speed < 1e16 for speed in (store.speeds("model").prefill, store.speeds("model").load)
    )
    store.record_speed("model", prefill=3.0, load=3.0)
    for key in KEYS:
        store.put(key, make_block(key))
    store.flush()
    assert store.verify(progress=False).intact == 3
    stats = store.stats()
    assert (stats.blocks, list(stats.namespaces), stats.write_failures) == (3, ["tenant"], 0)
    assert stats.bytes == sum(path.stat().st_size for path in block_files(store.path))
    assert all(same(store.get(key), make_block(key)) for key in KEYS)


@pytest.mark.parametrize("when", ["before it is opened", "while it is open"])
@pytest.mark.parametrize(("table", "column"), [(table, name) for table in COLUMNS for name in COLUMNS[table][1]])
def test_a_value_that_nobody_wrote(tmp_path: Path, table: str, column: str, when: str) -> None:
    for number, value in enumerate(ODD):
        kv = tmp_path / str(number)
        filled(kv)
        opened = KVCacheStore(kv, ram_bytes=0, namespace="tenant") if when == "while it is open" else None
        if not alter(kv, table, column, value):
            continue
        with opened or KVCacheStore(kv, ram_bytes=0, namespace="tenant") as store:
            use(store)
            assert store.delete(namespace="tenant") == 3 and block_files(kv) == []


@pytest.mark.parametrize("value", [b"\xff", -1, float("inf"), "../../x"])
def test_deleting_a_namespace_finds_blocks_whose_rows_are_damaged(tmp_path: Path, value: object) -> None:
    for column in ("namespace", "file", "bytes", "used"):
        filled(tmp_path / column)
        with KVCacheStore(tmp_path / column, ram_bytes=0) as store:
            if alter(tmp_path / column, "blocks", column, value):
                assert store.delete(namespace="tenant") == 3 and block_files(tmp_path / column) == []


@pytest.mark.parametrize("flips", [200, pytest.param(5000, marks=pytest.mark.extended)])
def test_one_flipped_bit(tmp_path: Path, flips: int) -> None:
    filled(tmp_path)
    path, rng = tmp_path / "index.sqlite", random.Random(4)
    good = path.read_bytes()
    meant = [place for place, byte in enumerate(good) if byte]
    for _ in range(flips):
        data = bytearray(good)
        data[rng.choice(meant)] ^= 1 << rng.randrange(8)
        for old in tmp_path.glob("index.sqlite*"):
            old.unlink()
        path.write_bytes(data)
        with KVCacheStore(tmp_path, ram_bytes=0, namespace="tenant") as store:
            use(store)


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.tuples(*[st.sampled_from(ODD)] * 7), min_size=1, max_size=6))
def test_rows_of_anything(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[object, ...]]) -> None:
    kv = tmp_path_factory.mktemp("any") / "kv"
    filled(kv)
    with sqlite3.connect(kv / "index.sqlite") as index:
        columns = "key, file, bytes, tokens, namespace, created, used"
        index.executemany(f"INSERT OR IGNORE INTO blocks ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    index.close()
    with KVCacheStore(kv, ram_bytes=0, namespace="tenant") as store:
        use(store)


def test_a_speed_that_cannot_be_is_measured_again(tmp_path: Path) -> None:
    filled(tmp_path)
    alter(tmp_path, "speeds", "value", float("inf"))
    with KVCacheStore(tmp_path) as store:
        assert store.speeds("model") == Speeds(prefill=10.0)
        store.record_speed("model", load=5.0)
    with KVCacheStore(tmp_path) as store:
        assert store.speeds("model") == Speeds(prefill=10.0, load=5.0)


# Times to come


@pytest.mark.parametrize("how", ["the index", "the files"])
@pytest.mark.parametrize("when", ["before it is opened", "while it is open"])
def test_a_clock_that_was_ahead_does_not_evict_new_blocks(tmp_path: Path, how: str, when: str) -> None:
    filled(tmp_path)
    ahead = time.time_ns() + 10**17  # three years
    size = block_files(tmp_path)[0].stat().st_size
    options = {"max_bytes": 3 * size + size // 2, "ram_bytes": 0, "namespace": "tenant"}
    opened = KVCacheStore(tmp_path, **options) if when == "while it is open" else None
    if how == "the index":
        with sqlite3.connect(tmp_path / "index.sqlite") as index:
            index.execute("UPDATE blocks SET used = ?, created = ?", [ahead, ahead])
        index.close()
    else:
        for path in block_files(tmp_path):
            os.utime(path, ns=(ahead, ahead))
        for path in tmp_path.glob("index.sqlite*"):
            path.unlink()
    with opened or KVCacheStore(tmp_path, **options) as store:
        for number in range(6):
            new = f"{number:04x}"
            store.put(new, make_block(new))
            store.flush()
            assert store.contains([new]) == [True], number
        assert store.contains(KEYS) == [False] * 3


def test_a_time_to_come_is_a_use_like_others(tmp_path: Path) -> None:
    filled(tmp_path)
    size = block_files(tmp_path)[0].stat().st_size
    with sqlite3.connect(tmp_path / "index.sqlite") as index:
        index.execute("UPDATE blocks SET used = ? WHERE key = 'aa'", [time.time_ns() + 10**17])
    index.close()
    with KVCacheStore(tmp_path, max_bytes=3 * size + size // 2, ram_bytes=0, namespace="tenant") as store:
        store.put("dd", make_block("dd"))
        store.flush()
        assert store.contains([*KEYS, "dd"]) == [True, False, True, True]  # "bb" is the one used longest ago
