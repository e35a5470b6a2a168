"""Damaged block files: a miss, never a wrong block and never an error unless strict."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filled_stores import filled, refuses
from safetensors.torch import load_file, save_file
from store_child import large_block, make_block, same
from store_processes import block_files

from grit_integrations.errors import CacheCorruptError
from grit_integrations.kv.store import files
from grit_integrations.kv.store.store import KVCacheStore


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
