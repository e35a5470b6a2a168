"""Pipes, sockets, folders and links in the place of a store's files: a miss, no wait, and no other file is lost."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from odd_files import ODD, Odd, is_untouched, make_folder, outcome, outside, put_in_place
from store_child import make_block, same
from store_processes import block_files

from grit_integrations.errors import CacheError, OptionError
from grit_integrations.kv.store.marker import MARKER
from grit_integrations.kv.store.store import KVCacheStore

KEY, OTHER = "ab" * 20, "cd" * 20
PLACES: dict[str, Callable[[Path], Path]] = {
    "a block": lambda kv: block_files(kv)[0],
    "a block's folder": lambda kv: block_files(kv)[0].parent,
    "a folder that is not there yet": lambda kv: kv / "blocks" / "cd",
    "blocks": lambda kv: kv / "blocks",
    "tmp": lambda kv: kv / "tmp",
    "quarantine": lambda kv: kv / "quarantine",
    "the index": lambda kv: kv / "index.sqlite",
    "the index's log": lambda kv: kv / "index.sqlite-wal",
    "the index's memory": lambda kv: kv / "index.sqlite-shm",
    "the index's journal": lambda kv: kv / "index.sqlite-journal",
    "the lock": lambda kv: kv / "index.lock",
    "the marker": lambda kv: kv / MARKER,
    "a temporary file": lambda kv: kv / "tmp" / f"{'0' * 8}-1-{'1' * 32}-{'2' * 32}",
    "a quarantined file": lambda kv: kv / "quarantine" / f"1-{KEY}-{'0' * 32}.safetensors",
}


def use(store: KVCacheStore) -> None:
    """Do everything that can be done with a store, and expect of it what is expected of an undamaged one."""
    found = store.get(KEY)
    assert found is None or same(found, make_block(KEY))
    store.contains([KEY, OTHER])
    for key in (KEY, OTHER):
        store.put(key, make_block(key))
    store.flush()
    assert same(store.get(KEY), make_block(KEY)) and same(store.get(OTHER), make_block(OTHER))
    found = store.verify(progress=False)
    assert (found.checked, found.intact) == (2, 2)
    assert store.verify(progress=False).quarantined == 0
    assert store.stats().blocks == 2
    assert store.delete([OTHER]) == 1 and store.get(OTHER) is None
    assert store.delete(namespace="") == 1
    store.put(KEY, make_block(KEY))
    store.flush()
    assert store.clear() == 1 and store.stats().blocks == 0
    store.close()


@pytest.mark.parametrize("when", ["before it is opened", "while it is open"])
@pytest.mark.parametrize("make", ODD)
@pytest.mark.parametrize("place", PLACES)
def test_whatever_stands_there_costs_a_miss(tmp_path: Path, place: str, make: Odd, when: str) -> None:
    kv = tmp_path / "kv"
    with KVCacheStore(kv) as store:
        store.put(KEY, make_block(KEY))
    outsiders = outside(kv / "any")
    opened = KVCacheStore(kv, ram_bytes=0) if when == "while it is open" else None
    put_in_place(PLACES[place](kv), make)
    if error := outcome(lambda: use(opened or KVCacheStore(kv, ram_bytes=0))):
        raise error
    assert block_files(kv) == []
    assert is_untouched(outsiders)


def test_a_folder_in_a_block_s_place_keeps_what_is_in_it(tmp_path: Path) -> None:
    with KVCacheStore(tmp_path / "kv") as store:
        store.put(KEY, make_block(KEY))
    put_in_place(block_files(tmp_path / "kv")[0], make_folder)
    with KVCacheStore(tmp_path / "kv") as store:
        assert store.stats().quarantined == 1
        store.clear()
    (kept,) = (tmp_path / "kv" / "quarantine").rglob("notes.txt")
    assert kept.read_text() == "somebody's only copy"


def test_a_folder_may_be_reached_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "kv").symlink_to(tmp_path / "disk")
    with KVCacheStore(tmp_path / "kv") as store:
        store.put(KEY, make_block(KEY))
    with KVCacheStore(tmp_path / "disk", ram_bytes=0) as store:
        assert same(store.get(KEY), make_block(KEY))


# Other people's files


def listing(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path.relative_to(folder)): (path.read_text() if path.is_file() else "", path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
    }


FOREIGN = ["tmp/draft.txt", "blocks/src/part.js", "quarantine/1-letter.txt", "index.sqlite", "index.lock", "notes.txt"]


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("strict", [False, True])
def test_a_folder_with_other_files_is_refused_and_not_touched(tmp_path: Path, name: str, strict: bool) -> None:
    file = tmp_path / "project" / name
    file.parent.mkdir(parents=True)
    file.write_text("the only copy")
    os.utime(file, (0, 0))
    before = listing(tmp_path)
    with pytest.raises(CacheError, match=r"project holds other files, such as .* Nothing in it was touched\. Give"):
        KVCacheStore(tmp_path / "project", strict=strict)
    assert listing(tmp_path) == before


def test_the_marker_or_the_index_says_that_a_folder_is_a_store_s(tmp_path: Path) -> None:
    with KVCacheStore(tmp_path) as store:
        store.put(KEY, make_block(KEY))
    (tmp_path / "index.sqlite").unlink()
    (tmp_path / MARKER).write_bytes(b"\xff damaged")
    with KVCacheStore(tmp_path) as store:
        assert store.stats().blocks == 1
    (tmp_path / MARKER).unlink()
    with KVCacheStore(tmp_path) as store:  # as one of before there were markers
        assert store.stats().blocks == 1
    assert (tmp_path / MARKER).exists()
    for path in (tmp_path / MARKER, tmp_path / "index.sqlite"):
        path.unlink()
    with pytest.raises(CacheError, match=f"put an empty {MARKER} there"):
        KVCacheStore(tmp_path)
    (tmp_path / MARKER).touch()
    with KVCacheStore(tmp_path) as store:
        assert store.stats().blocks == 1


def test_a_store_that_was_killed_before_its_index_was_tidied_up_is_known(tmp_path: Path) -> None:
    with KVCacheStore(tmp_path / "kv") as store:
        store.put(KEY, make_block(KEY))
        store.flush()
        shutil.copytree(tmp_path / "kv", tmp_path / "copy")
    (tmp_path / "copy" / MARKER).unlink()
    with KVCacheStore(tmp_path / "copy") as store:
        assert store.stats().blocks == 1


def test_files_that_others_put_into_a_store_stay(tmp_path: Path) -> None:
    kv = tmp_path / "kv"
    with KVCacheStore(kv) as store:
        store.put(KEY, make_block(KEY))
    names = [
        "notes.txt",
        "blocks/notes.txt",
        "blocks/ab/notes.txt",
        "blocks/src/ab.js",
        f"blocks/zz/{KEY}-{'0' * 32}.safetensors",
        "tmp/draft.txt",
        "quarantine/letter.txt",
        "quarantine/1-letter.txt",
    ]
    for name in names:
        (kv / name).parent.mkdir(exist_ok=True)
        (kv / name).write_text("the only copy")
        os.utime(kv / name, (0, 0))
    with KVCacheStore(kv) as store:
        assert store.stats().quarantined == 0
        assert store.verify(progress=False).quarantined == 0
        assert store.clear() == 1
    assert [(kv / name).read_text() for name in names] == ["the only copy"] * len(names)


def test_a_clock_that_was_ahead_does_not_push_the_newest_out_of_quarantine(tmp_path: Path) -> None:
    with KVCacheStore(tmp_path) as store:
        store.put(KEY, make_block(KEY))
    ahead = time.time_ns() + 10**18
    for number in range(16):
        (tmp_path / "quarantine" / f"{ahead + number}-{OTHER}-{'0' * 32}.safetensors").touch()
    block_files(tmp_path)[0].write_bytes(b"torn")
    KVCacheStore(tmp_path).close()
    kept = list((tmp_path / "quarantine").iterdir())
    assert len(kept) == 16 and any(KEY in path.name for path in kept)


@pytest.mark.parametrize("path", ["a\0b", "\ud800", 5, b"folder", ["folder"]])
def test_a_path_that_names_no_folder_is_refused(path: object) -> None:
    with pytest.raises(OptionError, match="names no folder"):
        KVCacheStore(path)  # type: ignore[arg-type]
