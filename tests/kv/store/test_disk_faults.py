"""A disk that refuses, fails or is full: a miss, never a lost answer and never an error unless strict."""

from __future__ import annotations

import logging
import os
import sqlite3
import tempfile
from pathlib import Path

import pytest
from filled_stores import filled
from store_child import make_block, same
from store_processes import block_files, run_child

from grit_integrations.errors import CacheError
from grit_integrations.kv.store.store import KVCacheStore


def test_a_path_that_is_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("here first")
    with caplog.at_level(logging.WARNING), KVCacheStore(tmp_path / "file" / "kv") as store:
        for key in ("aa", "bb"):
            assert store.put(key, make_block(key)) and same(store.get(key), make_block(key))
        store.flush()
        assert store.get("cc") is None and store.contains(["aa"]) == [True]
        for care in (store.stats, store.verify, store.clear, lambda: store.delete(["aa"])):
            with pytest.raises(CacheError, match="NotADirectoryError"):
                care()
    assert len(caplog.records) == 2  # one about the folder, one about what is not written
    for path in (tmp_path / "file", tmp_path / "file" / "kv"):
        with pytest.raises(CacheError, match="folder"):
            KVCacheStore(path, strict=True)
    assert (tmp_path / "file").read_text() == "here first"


def test_a_locked_index_costs_a_miss_and_not_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grit_integrations.kv.store.opening._PATIENCE", 0.1)
    monkeypatch.setattr("grit_integrations.kv.store.opening._HASTE", 0.05)
    filled(tmp_path, "aa")
    with KVCacheStore(tmp_path) as store, sqlite3.connect(tmp_path / "index.sqlite", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        assert same(store.get("aa"), make_block("aa"))
        assert not store.admit("bb", 2)
        assert store.put("bb", make_block("bb"))
        store.flush()
        assert store.stats().write_failures == 1 and len(block_files(tmp_path)) == 1
        with pytest.raises(CacheError, match="locked"):
            store.delete(["aa"])
        other.execute("ROLLBACK")
        store.put("bb", make_block("bb"))
        store.flush()
        assert store.contains(["bb"]) == [True] and store.stats().written == 1


def test_a_disk_that_fails_while_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, "aa")

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("grit_integrations.kv.store.disk.open_file", fail)
    with KVCacheStore(tmp_path) as store:
        assert store.get("aa") is None
        assert (store.stats().read_failures, store.stats().quarantined, store.stats().blocks) == (1, 0, 1)
    with KVCacheStore(tmp_path, strict=True) as store, pytest.raises(CacheError, match="Input/output"):
        store.get("aa")


def test_too_much_that_waits_is_skipped(tmp_path: Path) -> None:
    with KVCacheStore(tmp_path) as store:
        tiers = store._open()
        assert tiers is not None and tiers.disk is not None
        tiers.disk.writer._max_bytes = 0
        with tiers.disk._commit:  # the writer gets no further
            assert store.put("aa", make_block("aa")) and store.put("bb", make_block("bb"))
            assert store.stats().skipped == 1 and store.stats().pending == 1
            store.flush(timeout=0.05)
            assert store.stats().write_failures == 1
        store.flush()
        assert store.stats().blocks == 1


def test_a_full_disk(tmp_path: Path) -> None:
    run_child("fill", tmp_path)


def test_a_read_only_folder() -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become somebody who may not write")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        filled(root / "kv", "aa")
        for path in [root / "kv", *(root / "kv").rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        run_child("read_only", root / "kv", "aa")
        (root / "kv" / "index.sqlite").unlink()
        run_child("read_only", root / "kv", "aa")
