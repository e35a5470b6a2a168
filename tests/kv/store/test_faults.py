"""Damaged files, a damaged index, a disk that refuses: a miss, never a wrong block and never an error unless strict."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from store_child import large_block, make_block, same
from store_processes import block_files, run_child

from grit_integrations.errors import CacheCorruptError, CacheError
from grit_integrations.kv.blocks import KVBlock
from grit_integrations.kv.store import files, folder, leftovers
from grit_integrations.kv.store.store import KVCacheStore


def filled(path: Path, *keys: str, block: KVBlock | None = None) -> Path:
    """Write blocks and return the first one's file."""
    with KVCacheStore(path) as store:
        for key in keys:
            store.put(key, block or make_block(key))
    return block_files(path)[0]


def refuses(path: Path, key: str) -> bool:
    """Whether a fresh store finds the key's file to be bad, and moves it aside."""
    with KVCacheStore(path) as store:
        return store.get(key) is None and store.stats().quarantined == 1 and store.stats().blocks == 0


# Files


@pytest.mark.parametrize("variant", ["float32", "bfloat16", "int8"])
def test_every_flipped_bit_is_found(tmp_path: Path, variant: str) -> None:
    dtype = torch.float32 if variant == "float32" else torch.bfloat16
    block = make_block("ab12", 2, dtype, layers=1)
    path = filled(tmp_path, "ab12", block=block.quantised() if variant == "int8" else block)
    good, rng = path.read_bytes(), random.Random(7)
    for _ in range(700):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        with pytest.raises(CacheCorruptError):
            files.open_file(path)
        with pytest.raises(CacheCorruptError):
            files.check_file(path)
    for bit in (3, 8 * 40, 8 * len(good) - 1):  # through the whole store: length, header, tensors
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        assert refuses(tmp_path, "ab12")
        path.write_bytes(good)
        with KVCacheStore(tmp_path) as store:
            assert store.stats().blocks == 1 and store.get("ab12") is not None  # adopted again


def test_flipped_bits_of_a_large_file_are_found(tmp_path: Path) -> None:
    path = filled(tmp_path, "ab12", block=large_block("ab12"))
    good, rng = path.read_bytes(), random.Random(8)
    for _ in range(20):
        place = rng.randrange(len(good))
        with path.open("r+b") as file:
            file.seek(place)
            file.write(bytes([good[place] ^ 1 << rng.randrange(8)]))
        with pytest.raises(CacheCorruptError):
            files.open_file(path)
        with path.open("r+b") as file:
            file.seek(place)
            file.write(good[place : place + 1])
    assert same(files.open_file(path).block, large_block("ab12"))


def test_truncated_and_grown_files_are_found(tmp_path: Path) -> None:
    path = filled(tmp_path, "ab12")
    good, rng = path.read_bytes(), random.Random(9)
    for length in [0, 1, 7, 8, 9, len(good) - 1, *(rng.randrange(len(good)) for _ in range(100))]:
        path.write_bytes(good[:length])
        with pytest.raises(CacheCorruptError):
            files.open_file(path)
    for bad in (good[:100], good + b"\0"):
        path.write_bytes(bad)
        assert refuses(tmp_path, "ab12")
        path.write_bytes(good)
        KVCacheStore(tmp_path).close()


def damage_truncated(path: Path) -> None:
    os.truncate(path, 4096)


def damage_altered(path: Path) -> None:
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # size, time and inode are what they were


@pytest.mark.parametrize("damage", [damage_truncated, damage_altered])
def test_a_file_that_is_damaged_while_the_store_is_open_is_checked_anew(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = filled(tmp_path, "ab12", block=large_block("ab12"))
    with KVCacheStore(tmp_path, ram_bytes=0) as store:
        assert store.get("ab12") is not None
        damage(path)
        assert store.get("ab12") is None and store.stats().quarantined == 1
        assert store.put("ab12", large_block("ab12"))
        store.flush()
        assert same(store.get("ab12"), large_block("ab12")) and len(block_files(tmp_path)) == 1


def test_files_under_each_others_names_are_found(tmp_path: Path) -> None:
    filled(tmp_path, "aa11", "aa22")
    one, other = block_files(tmp_path)
    swapped = one.read_bytes(), other.read_bytes()
    one.write_bytes(swapped[1])
    other.write_bytes(swapped[0])
    with KVCacheStore(tmp_path) as store:
        assert store.get("aa11") is None and store.get("aa22") is None and store.stats().quarantined == 2


def test_files_that_only_look_like_blocks_are_put_aside(tmp_path: Path) -> None:
    path = filled(tmp_path, "aa11")
    save_file({"weight": torch.ones(3)}, path.with_name(f"aa22-{'0' * 32}.safetensors"))
    tensors = load_file(path)
    header = {**make_block("aa33").metadata(), "format": "grit-kv-2", "key": "aa33", "namespace": ""}
    save_file(tensors, path.with_name(f"aa33-{'0' * 32}.safetensors"), metadata=header)
    wrong_folder = path.parent.with_name("bb")
    wrong_folder.mkdir()
    shutil.copy(path, wrong_folder)
    with KVCacheStore(tmp_path) as store:
        assert store.stats().quarantined == 3 and store.stats().blocks == 1
        assert same(store.get("aa11"), make_block("aa11"))
    assert len(list((tmp_path / "quarantine").iterdir())) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"format": "grit-kv-2"},
        {"position": "x"},
        {"dtype": "float64"},
        {"key": "bb"},
        {"position": None},
    ],
)
def test_a_header_that_lies_is_found_even_with_the_right_checksum(
    tmp_path: Path, change: dict[str, str | None]
) -> None:
    metadata = {**make_block("aa").metadata(), "format": files.FORMAT, "key": "aa", "namespace": "", **change}
    kept = {name: text for name, text in metadata.items() if text is not None}
    place_file(tmp_path, kept, make_block("aa").tensors())
    assert KVCacheStore(tmp_path).get("aa") is None
    assert len(list((tmp_path / "quarantine").iterdir())) == 1


def test_shapes_that_contradict_are_found_even_with_the_right_checksum(tmp_path: Path) -> None:
    metadata = {**make_block("aa").metadata(), "format": files.FORMAT, "key": "aa", "namespace": ""}
    place_file(tmp_path, metadata, make_block("aa").tensors() | {"values": torch.ones(2, 2, 4, 8)})
    with KVCacheStore(tmp_path) as store:
        assert store.stats().blocks == 1 and store.get("aa") is None and store.stats().quarantined == 1


def place_file(path: Path, metadata: dict[str, str], tensors: dict[str, torch.Tensor]) -> None:
    """Put a file that somebody else wrote where the block of key aa would lie."""
    import hashlib

    KVCacheStore(path).close()
    save_file(tensors, path / "new", metadata=metadata)
    digest = hashlib.blake2b((path / "new").read_bytes(), digest_size=16).hexdigest()
    (path / "blocks" / "aa").mkdir()
    (path / "new").rename(path / "blocks" / "aa" / f"aa-{digest}.safetensors")


def test_strict_raises_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    path = filled(tmp_path, "ab12")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with KVCacheStore(tmp_path, strict=True) as store:
        with pytest.raises(CacheCorruptError, match="checksum"):
            store.get("ab12")
        assert store.get("ab12") is None


def test_quarantine_keeps_the_newest_sixteen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = [f"{number:04x}" for number in range(20)]
    filled(tmp_path, *keys)
    for path in block_files(tmp_path):
        path.write_bytes(b"torn")
    with caplog.at_level(logging.WARNING), KVCacheStore(tmp_path) as store:
        assert store.stats().quarantined == 20 and store.stats().blocks == 0
    assert len(list((tmp_path / "quarantine").iterdir())) == 16
    assert len(caplog.records) == 20  # once about each


def test_deleting_reaches_the_quarantine(tmp_path: Path) -> None:
    filled(tmp_path, "aa", "bb").write_bytes(b"torn")
    with KVCacheStore(tmp_path) as store:
        assert len(list((tmp_path / "quarantine").iterdir())) == 1
        store.delete(["aa"])
        assert not list((tmp_path / "quarantine").iterdir())


def test_verify_finds_what_nobody_asked_for(tmp_path: Path) -> None:
    filled(tmp_path, "aa", "bb", "cc", "dd")
    with KVCacheStore(tmp_path) as store:
        bad, gone, moved, _ = block_files(tmp_path)
        data = bytearray(bad.read_bytes())
        data[-1] ^= 1
        bad.write_bytes(data)
        gone.unlink()
        with sqlite3.connect(tmp_path / "index.sqlite") as index:
            index.execute("DELETE FROM blocks WHERE file = ?", [moved.name])
        found = store.verify(progress=False)
        assert (found.checked, found.intact, found.quarantined, found.missing, found.adopted) == (3, 2, 1, 1, 1)
        again = store.verify(progress=False)
        assert (again.checked, again.intact, again.quarantined, again.missing, again.adopted) == (2, 2, 0, 0, 0)


# The index


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


# The disk


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


def test_a_json_header_of_any_kind_is_no_crash(tmp_path: Path) -> None:
    path = tmp_path / f"aa-{'0' * 32}.safetensors"
    whole = {"format": files.FORMAT, "key": "aa", "namespace": ""}
    for header in (
        [],
        1,
        None,
        {},
        {"__metadata__": 3},
        {"__metadata__": whole},
        {"__metadata__": whole, "token_ids": 3},
        {"__metadata__": whole, "token_ids": {"dtype": "I32", "shape": [-1], "data_offsets": [0, 4]}},
        {"__metadata__": whole, "token_ids": {"dtype": "I32", "shape": [1.0], "data_offsets": [0, 4]}},
        {"__metadata__": whole, "token_ids": {"dtype": "I32", "shape": [], "data_offsets": [0, 4]}},
        {"__metadata__": whole, "token_ids": {"dtype": ["I32"], "shape": [1], "data_offsets": [0, 4]}},
        {"__metadata__": whole, "token_ids": {"dtype": "I32", "shape": [1], "data_offsets": [-4, 0]}},
    ):
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        with pytest.raises(CacheCorruptError):
            files.read_header(path)
    deep = b"[" * 200_000
    path.write_bytes(len(deep).to_bytes(8, "little") + deep)
    with pytest.raises(CacheCorruptError):
        files.read_header(path)
