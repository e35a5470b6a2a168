"""What keeps a store from being opened lasts no longer than its cause, and nobody is told that all is well."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from store_child import make_block, same
from store_processes import block_files, run_child

from grit_integrations.errors import CacheError
from grit_integrations.kv.store.store import KVCacheStore
from grit_integrations.kv.store.worker import Task, Worker

KEYS = ["aa", "bb", "cc"]


@pytest.fixture
def kv(tmp_path: Path) -> Path:
    with KVCacheStore(tmp_path / "kv", namespace="tenant") as store:
        for key in KEYS:
            store.put(key, make_block(key))
    return tmp_path / "kv"


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grit_integrations.kv.store.opening._PATIENCE", 0.2)
    monkeypatch.setattr("grit_integrations.kv.store.opening._HASTE", 0.05)


def readable(store: KVCacheStore) -> int:
    return sum(same(store.get(key), make_block(key)) for key in KEYS)


def care_raises(store: KVCacheStore, words: str) -> None:
    """Whoever asks what is there, or has it deleted, must learn that the disk cannot be reached."""
    for care in (
        store.stats,
        store.verify,
        store.clear,
        lambda: store.delete(KEYS),
        lambda: store.delete(namespace=""),
    ):
        with pytest.raises(CacheError, match=words):
            care()


def works(store: KVCacheStore) -> None:
    assert readable(store) == 3
    store.put("dd", make_block("dd"))
    store.flush()
    assert store.stats().blocks == 4 and store.verify(progress=False).intact == 4
    assert store.delete(namespace="tenant") == 4 and store.stats().blocks == 0


@contextmanager
def locked(kv: Path) -> Iterator[None]:
    other = sqlite3.connect(kv / "index.sqlite", isolation_level=None)
    other.execute("PRAGMA locking_mode=EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    other.execute("UPDATE blocks SET hits = hits")
    yield
    other.execute("ROLLBACK")
    other.close()


@contextmanager
def moved_away(kv: Path) -> Iterator[None]:
    kv.rename(kv.with_name("elsewhere"))
    kv.write_text("not a folder")
    yield
    kv.unlink()
    kv.with_name("elsewhere").rename(kv)


@contextmanager
def no_descriptors(_: Path) -> Iterator[None]:
    held = []
    with suppress(OSError):
        while True:
            held.append(os.dup(0))
    try:
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)


CAUSES = {"locked": locked, "NotADirectory": moved_away, "unable to open|Too many open files": no_descriptors}


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    last = max(int(path.name) for path in Path("/proc/self/fd").iterdir())  # other tests of this process hold some
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(last + 200, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_descriptors")
@pytest.mark.parametrize("words", CAUSES)
def test_a_store_that_could_not_be_opened_is_opened_later(kv: Path, words: str) -> None:
    with CAUSES[words](kv):
        store = KVCacheStore(kv, namespace="tenant", ram_bytes=0)
        assert readable(store) == 0 and store.contains(KEYS) == [False] * 3
        assert not store.put("dd", make_block("dd"))
        care_raises(store, words)
    works(store)
    store.close()


@pytest.mark.usefixtures("few_descriptors")
def test_a_shortage_of_descriptors_costs_misses_and_writes_while_it_lasts(kv: Path) -> None:
    store = KVCacheStore(kv, namespace="tenant", ram_bytes=0)
    with no_descriptors(kv):
        assert readable(store) == 0
        store.put("dd", make_block("dd"))
        store.flush()
        for care in (store.verify, store.clear, lambda: store.delete(["aa"])):
            with pytest.raises(CacheError, match="Too many open files"):
                care()
    assert not list((kv / "quarantine").iterdir())
    works(store)
    store.close()


def test_what_is_asked_of_a_locked_store_takes_no_time(kv: Path) -> None:
    with locked(kv):
        store = KVCacheStore(kv, namespace="tenant", ram_bytes=0)
        began = time.monotonic()
        for key in KEYS * 20:
            store.get(key)
        assert time.monotonic() - began < 60 * 0.2 / 4  # 0.2 is what one wait for the other process takes here
    deadline = time.monotonic() + 10
    while readable(store) < 3 and time.monotonic() < deadline:  # a busy machine takes the disk for a slow one
        time.sleep(0.05)
    works(store)


def test_an_answer_does_not_wait_for_who_waits_for_the_lock(kv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with locked(kv):
        store = KVCacheStore(kv, namespace="tenant", ram_bytes=0)
        monkeypatch.setattr("grit_integrations.kv.store.opening._PATIENCE", 8.0)
        waiting = threading.Thread(target=store.verify)
        waiting.start()
        time.sleep(0.1)
        began = time.monotonic()
        assert readable(store) == 0
        assert waiting.is_alive() and time.monotonic() - began < 4
    waiting.join()


def test_a_slow_disk_is_left_alone_for_a_while(kv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def slow(*_: object, **__: object) -> None:
        attempts.append(time.monotonic())
        time.sleep(0.1)
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("grit_integrations.kv.store.disk.open_for_writing", slow)
        store = KVCacheStore(kv, namespace="tenant")
        for _ in range(50):
            assert readable(store) == 0
        assert len(attempts) == 2
        care_raises(store, "Input/output")  # who must know is not told of the last attempt
        assert len(attempts) == 7
    assert store.verify(progress=False).intact == 3
    works(store)


def test_an_index_that_was_replaced_is_opened_anew(kv: Path) -> None:
    with KVCacheStore(kv, namespace="tenant", ram_bytes=0) as store:
        for path in kv.glob("index.sqlite*"):
            path.rename(kv.parent / path.name)
        works(store)


def test_a_folder_that_was_deleted_is_made_again(kv: Path) -> None:
    with KVCacheStore(kv, namespace="tenant", ram_bytes=0) as store:
        shutil.rmtree(kv)
        assert readable(store) == 0 and store.stats().blocks == 0
        for key in KEYS:
            store.put(key, make_block(key))
        store.flush()
        works(store)


BREAK = {
    "overwritten": lambda data: b"\xa5" * len(data),
    "cut": lambda data: data[:5000],
    "emptied": lambda data: b"",
    "another's": lambda data: data.replace(b"blocks", b"lumps!"),
}
FIRST: dict[str, Callable[[KVCacheStore], object]] = {
    "get": readable,
    "stats": lambda store: store.stats().blocks == 3,
    "verify": lambda store: store.verify(progress=False).intact == 3,
    "delete": lambda store: store.delete(["ff"]) == 0,
}


@pytest.mark.parametrize("how", BREAK)
@pytest.mark.parametrize("first", FIRST)
def test_an_index_that_breaks_while_it_is_open_is_rebuilt(kv: Path, how: str, first: str) -> None:
    with KVCacheStore(kv, namespace="tenant", ram_bytes=0) as store:
        for path in (kv / "index.sqlite", kv / "index.sqlite-wal"):  # cutting sqlite's shared memory ends any process
            path.write_bytes(BREAK[how](path.read_bytes()))
        assert FIRST[first](store) or first == "get"  # which may be a miss
        readable(store)
        works(store)


def test_a_relative_path_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "one")
    with KVCacheStore("kv", ram_bytes=0) as store:
        store.put("aa", make_block("aa"))
        store.flush()
        monkeypatch.chdir(tmp_path / "other")
        assert same(store.get("aa"), make_block("aa"))
        store.put("bb", make_block("bb"))
        store.flush()
        assert store.stats().blocks == 2 and store.path == tmp_path / "one" / "kv"
        assert store.verify(progress=False).intact == 2 and store.delete(["aa"]) == 1
    assert list((tmp_path / "other").iterdir()) == []


def test_a_relative_path_in_a_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(CacheError, match="Give an absolute path"):
        KVCacheStore("kv")


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Give a function that mounts a file system of a few megabytes."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        place = tmp_path / "disk"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("only who may mount can make a small disk")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", place], check=True)


def fill(disk: Path) -> None:
    with suppress(OSError):
        for number in range(10_000):
            (disk / f"{number}").write_bytes(b"x" * 4096)


@pytest.mark.parametrize("options", ["size=3m", "size=9m,nr_inodes=60"])
@pytest.mark.parametrize("filled", ["before it is opened", "while it is open", "after a kill"])
def test_on_a_full_disk_blocks_are_read_and_deleted(
    small_disk: Callable[[str], Path], options: str, filled: str
) -> None:
    disk = small_disk(options)
    if filled == "after a kill":
        run_child("leave_at_once", disk / "kv", *KEYS)
    else:
        with KVCacheStore(disk / "kv") as store:
            for key in KEYS:
                store.put(key, make_block(key, tokens=300))
    opened = KVCacheStore(disk / "kv", ram_bytes=0) if filled == "while it is open" else None
    fill(disk)
    with opened or KVCacheStore(disk / "kv", ram_bytes=0) as store:
        assert all(same(store.get(key), make_block(key, tokens=300)) for key in KEYS)
        store.put("dd", make_block("dd", tokens=300))
        store.flush()
        assert store.stats().write_failures == 1 and store.stats().blocks == 3
        assert store.verify(progress=False).intact == 3
        assert store.delete(["aa"]) == 1 and store.get("aa") is None
        assert store.delete(namespace="") == 2 and block_files(disk / "kv") == []
        for number in range(40):
            (disk / f"{number}").unlink(missing_ok=True)
        store.put("dd", make_block("dd", tokens=300))
        store.flush()
        assert store.stats().blocks == 1
    with KVCacheStore(disk / "kv", strict=True, ram_bytes=0) as store:
        assert store.verify(progress=False).intact == 1 and store.contains([*KEYS, "dd"]) == [False] * 3 + [True]


def test_a_full_disk_is_named(small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("size=3m")
    KVCacheStore(disk / "kv").close()
    fill(disk)
    with pytest.raises(CacheError, match="disk"), KVCacheStore(disk / "kv", strict=True, ram_bytes=0) as store:
        store.put("dd", make_block("dd"))
        store.flush()


def test_a_disk_that_is_mounted_read_only_is_used_when_it_is_not(small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("size=3m")
    with KVCacheStore(disk / "kv") as store:
        store.put("aa", make_block("aa"))
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with KVCacheStore(disk / "kv", ram_bytes=0) as store:
        assert same(store.get("aa"), make_block("aa")) and not store.put("bb", make_block("bb"))
        with pytest.raises(CacheError, match="as a user who may"):
            store.delete(["aa"])
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        assert store.put("bb", make_block("bb"))
        store.flush()
        assert store.stats().blocks == 2 and store.delete(["aa"]) == 1


# Threads


def test_a_thread_that_could_not_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    worker, done = Worker("kv-writer"), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert not worker.submit("aa", Task(lambda _: done.set()))
        assert worker.wait(1) and worker.pending == 0
    assert worker.submit("aa", Task(lambda _: done.set())) and worker.wait(10) and done.is_set()
    worker.close()
