"""A damaged index, and one that does not say what the folder holds: rebuilt from the files."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from filled_stores import filled
from store_child import make_block, same
from store_processes import block_files

from grit_integrations.kv.store import folder, leftovers
from grit_integrations.kv.store.store import KVCacheStore


def damage_delete(index: Path) -> None:
    index.unlink()


def damage_garbage(index: Path) -> None:
    index.write_bytes(random.Random(1).randbytes(10_000))


def damage_truncate(index: Path) -> None:
    os.truncate(index, 5000)


def damage_version(index: Path) -> None:
    with sqlite3.connect(index) as database:
        database.execute("PRAGMA user_version=99")


def damage_table(index: Path) -> None:
    with sqlite3.connect(index) as database:
        database.execute("DROP TABLE blocks")


def damage_rows(index: Path) -> None:
    with sqlite3.connect(index) as database:
        database.execute("UPDATE blocks SET file = '../../secret', bytes = 'many'")


def damage_another(index: Path) -> None:
    index.unlink()
    with sqlite3.connect(index) as database:
        database.execute("CREATE TABLE somebody_elses (x)")


_DAMAGES = [
    damage_delete,
    damage_garbage,
    damage_truncate,
    damage_version,
    damage_table,
    damage_rows,
    damage_another,
]


@pytest.mark.parametrize("damage", _DAMAGES)
def test_a_bad_index_is_rebuilt_from_the_files(tmp_path: Path, damage: object) -> None:
    filled(tmp_path, "aa", "bb")
    damage(tmp_path / "index.sqlite")  # type: ignore[operator]
    with KVCacheStore(tmp_path, strict=True) as store:
        assert same(store.get("aa"), make_block("aa")) and same(store.get("bb"), make_block("bb"))
        assert store.stats().blocks == 2 and store.stats().tokens == 6
        store.put("cc", make_block("cc"))
        store.flush()
    with KVCacheStore(tmp_path) as store:
        assert store.stats().blocks == 3
        assert store.verify(progress=False).intact == 3


def test_flipped_bits_in_the_index_give_no_wrong_block(tmp_path: Path) -> None:
    filled(tmp_path / "kv", "aa", "bb")
    rng = random.Random(3)
    for number in range(60):
        copy = tmp_path / str(number)
        shutil.copytree(tmp_path / "kv", copy)
        data = bytearray((copy / "index.sqlite").read_bytes())
        for _ in range(20):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (copy / "index.sqlite").write_bytes(data)
        with KVCacheStore(copy) as store:
            for key in ("aa", "bb"):
                found = store.get(key)
                assert found is None or same(found, make_block(key))
                assert store.put(key, make_block(key))
            store.flush()
            store.stats()


def test_an_index_that_breaks_while_it_is_open_costs_misses(tmp_path: Path) -> None:
    filled(tmp_path, "aa")
    with KVCacheStore(tmp_path, ram_bytes=0) as store:
        (tmp_path / "index.sqlite").write_bytes(b"\0" * 4096)
        store.get("aa")
        store.put("bb", make_block("bb"))
        store.flush()
        store.contains(["aa"])
        store.stats()
    with KVCacheStore(tmp_path) as store:
        assert same(store.get("aa"), make_block("aa"))


def test_rows_without_files_and_files_without_rows(tmp_path: Path) -> None:
    filled(tmp_path, "aa", "bb")
    block_files(tmp_path)[0].unlink()
    with sqlite3.connect(tmp_path / "index.sqlite") as index:
        index.execute("DELETE FROM blocks WHERE key = 'bb'")
    with KVCacheStore(tmp_path) as store:
        assert store.contains(["aa", "bb"]) == [False, True]
        assert same(store.get("bb"), make_block("bb"))
        block_files(tmp_path)[0].unlink()
        assert store.delete(["ff"]) == 0


def test_a_file_that_vanishes_is_a_miss_and_its_row_goes(tmp_path: Path) -> None:
    path = filled(tmp_path, "aa")
    with KVCacheStore(tmp_path, strict=True) as store:
        path.unlink()
        assert store.get("aa") is None and store.stats().blocks == 0
        store.put("aa", make_block("aa"))
        store.flush()
        assert store.stats().blocks == 1


def test_a_second_file_of_a_key_is_removed(tmp_path: Path) -> None:
    filled(tmp_path / "one", "aa")
    with KVCacheStore(tmp_path / "other", namespace="elsewhere") as store:
        store.put("aa", make_block("aa"))
    shutil.copy(block_files(tmp_path / "other")[0], block_files(tmp_path / "one")[0].parent)
    assert len(block_files(tmp_path / "one")) == 2
    with KVCacheStore(tmp_path / "one") as store:
        assert same(store.get("aa"), make_block("aa")) and store.stats().quarantined == 0
    assert len(block_files(tmp_path / "one")) == 1


def test_a_smaller_bound_evicts_when_the_store_is_opened(tmp_path: Path) -> None:
    size = filled(tmp_path, "aa", "bb", "cc").stat().st_size
    with KVCacheStore(tmp_path, max_bytes=2 * size) as store:
        assert store.stats().blocks == 2 and len(block_files(tmp_path)) == 2
        assert store.contains(["aa"]) == [False]


def test_temporary_files_of_the_dead_are_removed(tmp_path: Path) -> None:
    filled(tmp_path, "aa")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    living, dead, old = (folder.Folder(tmp_path).temporary() for _ in range(3))
    dead = dead.with_name(dead.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-"))
    for path in (living, dead, old):
        path.write_bytes(b"half a block")
    os.utime(old, (0, 0))
    restarted = living.with_name(living.name.replace(leftovers.RUN, "0" * 32))
    restarted.write_bytes(b"of an earlier process with this number")
    KVCacheStore(tmp_path).close()
    assert list((tmp_path / "tmp").iterdir()) == [living]
