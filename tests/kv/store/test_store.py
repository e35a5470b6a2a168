"""The store as its callers see it."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from store_child import large_block, make_block, same
from store_processes import block_files, run_child

from grit_integrations.errors import CacheError, CacheFullError, OptionError
from grit_integrations.kv.blocks import KVBlock
from grit_integrations.kv.speeds import Speeds
from grit_integrations.kv.store import files
from grit_integrations.kv.store.store import KVCacheStore


def variants(key: str) -> dict[str, KVBlock]:
    native = {str(dtype): make_block(key, 5, dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)}
    return native | {"int8": make_block(key, 5, torch.bfloat16).quantised(), "large": large_block(key)}


@pytest.mark.parametrize("variant", ["torch.float32", "torch.bfloat16", "torch.float16", "int8", "large"])
def test_a_block_comes_back_with_the_same_bits(tmp_path: Path, variant: str) -> None:
    block = variants("ab12")[variant]
    with KVCacheStore(tmp_path / "kv", namespace="tenant") as store:
        assert store.put("ab12", block)
        assert store.get("ab12") is block
        store.flush()
        assert store.stats().written == 1
    with KVCacheStore(tmp_path / "kv") as store:
        assert store.disk_bytes("ab12") == block_files(tmp_path / "kv")[0].stat().st_size
        found = store.get("ab12")
        assert same(found, block) and store.get("ab12") is found
        assert store.disk_bytes("ab12") is None
        stats = store.stats()
        assert (stats.hits_disk, stats.hits_ram, stats.misses, stats.tokens) == (1, 1, 0, len(block))
        assert stats.namespaces == {"tenant": (1, stats.bytes)}


def test_another_process_reads_it(tmp_path: Path) -> None:
    with KVCacheStore(tmp_path) as store:
        store.put("ab12", make_block("ab12"))
        store.flush()
        run_child("check_get", tmp_path, "ab12")


def test_what_was_put_survives_a_process_that_just_ends(tmp_path: Path) -> None:
    run_child("leave_open", tmp_path, "ab12")
    with KVCacheStore(tmp_path) as store:
        assert same(store.get("ab12"), make_block("ab12"))


def test_slices_and_views_are_written_contiguously(tmp_path: Path) -> None:
    view = make_block("aa", tokens=9).slice(2, 5)
    with KVCacheStore(tmp_path, ram_bytes=0) as store:
        store.put("aa", view)
        store.flush()
        assert same(store.get("aa"), view)


def test_files_are_private_and_plain_safetensors(tmp_path: Path) -> None:
    with KVCacheStore(tmp_path / "kv") as store:
        store.put("ab12", make_block("ab12"))
    (path,) = block_files(tmp_path / "kv")
    assert torch.equal(load_file(path)["keys"], make_block("ab12").keys)
    assert path.parent.name == "ab" and path.name.startswith("ab12-")
    modes = {item.stat().st_mode & 0o777 for item in (tmp_path / "kv").rglob("*")} | {
        (tmp_path / "kv").stat().st_mode & 0o777
    }
    assert modes == {0o700, 0o600}


@pytest.mark.parametrize("make", [make_block, large_block])
def test_what_is_done_to_a_file_reaches_no_block_that_was_read(tmp_path: Path, make: Callable[[str], KVBlock]) -> None:
    with KVCacheStore(tmp_path) as store:
        store.put("ab12", make("ab12"))
    (path,) = block_files(tmp_path)
    before = path.read_bytes()
    store = KVCacheStore(tmp_path)
    block = store.get("ab12")
    assert block is not None and block.keys.data_ptr() % 8 == 0
    with path.open("r+b") as file:
        file.write(b"\xff" * len(before))
    assert same(block, make("ab12")) and store.get("ab12") is block
    os.truncate(path, 0)
    assert same(block, make("ab12")) and store.get("ab12") is block
    store.close()
    path.write_bytes(before)
    with KVCacheStore(tmp_path) as store:
        block = store.get("ab12")
        assert block is not None
        block.keys.add_(1)  # nobody may, but the file must not follow
    assert path.read_bytes() == before


def test_blocks_in_ram_hold_no_descriptors_and_count_their_bytes(tmp_path: Path) -> None:
    keys = [f"{number:04x}" for number in range(40)]
    with KVCacheStore(tmp_path, ram_bytes=0) as store:
        for key in keys:
            store.put(key, large_block(key))
    with KVCacheStore(tmp_path, ram_bytes="1GB") as store:
        before = len(list(Path("/proc/self/fd").iterdir()))
        held = [store.get(key) for key in keys]
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        assert str(tmp_path) + "/blocks" not in Path("/proc/self/maps").read_text()
        taken = sum(block.keys.untyped_storage().nbytes() for block in held if block is not None)
        assert len(keys) == store.stats().ram_blocks
        assert store.stats().ram_bytes <= taken < 1.01 * store.stats().ram_bytes  # the rest is the files' headers


def test_a_block_outlives_its_store_and_its_file(tmp_path: Path) -> None:
    with KVCacheStore(tmp_path) as store:
        store.put("ab12", large_block("ab12"))
    store = KVCacheStore(tmp_path)
    block = store.get("ab12")
    block_files(tmp_path)[0].unlink()
    assert store.get("ab12") is block  # in RAM, and still what was checked
    store.close()
    store.close()
    assert same(block, large_block("ab12"))
    assert store.get("ab12") is None and not store.put("ab12", block) and store.contains(["ab12"]) == [False]
    assert (store.stats().blocks, store.stats().hits_ram) == (1, 1)  # as it was left
    for care in (store.verify, store.clear, lambda: store.delete(["ab12"])):
        with pytest.raises(CacheError, match="closed"):  # zeros would say that nothing is on the disk
            care()


def test_pickling_keeps_the_arguments(tmp_path: Path) -> None:
    with KVCacheStore(tmp_path, max_bytes="3MB", precision="int8", namespace="n") as store:
        store.put("ab12", make_block("ab12"))
        store.flush()
        with pickle.loads(pickle.dumps(store)) as copy:
            assert same(copy.get("ab12"), make_block("ab12"))
            assert (copy.path, copy.precision, copy.namespace) == (tmp_path, "int8", "n")
            assert copy.stats().max_bytes == 3_000_000


def test_without_a_path_there_is_ram_only() -> None:
    with KVCacheStore(None, ram_bytes=3 * make_block("aa").nbytes) as store:
        for key in ("aa", "bb", "cc"):
            assert store.put(key, make_block(key))
        assert store.get("aa") is not None
        store.put("dd", make_block("dd"))
        assert store.contains(["aa", "bb", "cc", "dd"]) == [True, False, True, True]
        assert not store.put("ee", make_block("ee", tokens=100))
        store.flush()
        store.prefetch(["bb"])
        assert not store.admit("ff", 2) and store.admit("ff", 2) and store.admit("gg", 1)
        store.record_speed("m", prefill=3.0)
        assert store.speeds("m") == Speeds(prefill=3.0)
        assert store.delete(namespace="") == 3 and store.stats().ram_bytes == 0


def test_ram_zero_holds_nothing_but_what_is_queued(tmp_path: Path) -> None:
    with KVCacheStore(tmp_path, ram_bytes=0) as store:
        assert store.put("ab12", make_block("ab12"))
        assert same(store.get("ab12"), make_block("ab12"))
        store.flush()
        assert store.stats().ram_blocks == 0 and store.peek("ab12") is None
    with KVCacheStore(None, ram_bytes=0) as store:
        assert not store.put("ab12", make_block("ab12"))


def test_persist_false_stays_in_ram(tmp_path: Path) -> None:
    with KVCacheStore(tmp_path) as store:
        assert store.put("ab12", make_block("ab12"), persist=False)
        store.flush()
        assert store.stats().blocks == 0 and store.stats().ram_blocks == 1 and store.contains(["ab12"]) == [True]


def test_a_block_without_tokens_is_not_kept(tmp_path: Path) -> None:
    with KVCacheStore(tmp_path) as store:
        assert not store.put("ab12", make_block("ab12").slice(1, 1)) and store.get("ab12") is None


def test_peek_counts_nothing(tmp_path: Path) -> None:
    with KVCacheStore(tmp_path) as store:
        store.put("ab12", make_block("ab12"))
        assert store.peek("ab12") is not None and store.peek("cd") is None
        assert store.stats().hits_ram == store.stats().misses == 0


def test_writing_twice_writes_once(tmp_path: Path) -> None:
    with KVCacheStore(tmp_path) as store, KVCacheStore(tmp_path) as other:
        for _ in range(2):
            for one in (store, other):
                one.put("ab12", make_block("ab12"))
                one.flush()
        assert (store.stats().written, other.stats().written) == (1, 0)
    assert len(block_files(tmp_path)) == 1


def test_prefetch_brings_blocks_into_ram(tmp_path: Path) -> None:
    with KVCacheStore(tmp_path) as store:
        store.put("ab12", make_block("ab12"))
    with KVCacheStore(tmp_path) as store:
        store.prefetch(["ab12", "cd"])
        deadline = time.monotonic() + 10
        while store.peek("ab12") is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert same(store.peek("ab12"), make_block("ab12"))
        assert store.stats().hits_disk == store.stats().misses == 0


def test_misses_of_all_processes_add_up(tmp_path: Path) -> None:
    with KVCacheStore(tmp_path) as one, KVCacheStore(tmp_path) as other:
        assert not one.admit("aa", 3) and not other.admit("aa", 3) and one.admit("aa", 3) and not one.admit("bb", 2)
    with KVCacheStore(tmp_path) as store:
        assert store.admit("bb", 2)


def test_the_first_measurement_stays(tmp_path: Path) -> None:
    with KVCacheStore(tmp_path) as store:
        store.record_speed("m", prefill=10.0)
        store.record_speed("m", prefill=20.0, load=5.0)
        store.record_speed("other", load=-1.0)
    with KVCacheStore(tmp_path) as store:
        assert store.speeds("m") == Speeds(prefill=10.0, load=5.0) and store.speeds("other") == Speeds()


def test_delete_by_key_and_namespace(tmp_path: Path) -> None:
    with KVCacheStore(tmp_path, namespace="a") as one, KVCacheStore(tmp_path, namespace="b") as other:
        for key in ("aa", "bb"):
            one.put(key, make_block(key))
        other.put("cc", make_block("cc"))
        one.flush()
        other.flush()
        assert one.delete(["aa", "ff", "not a key"]) == 1 and one.get("aa") is None
        assert one.delete(namespace="b") == 1
        assert [path.name[:2] for path in block_files(tmp_path)] == ["bb"]
        assert one.clear() == 1 and block_files(tmp_path) == [] and one.stats().bytes == 0
    for wrong in ({}, {"keys": ["aa"], "namespace": "a"}):
        with pytest.raises(OptionError):
            KVCacheStore(None).delete(**wrong)


def test_delete_wins_over_a_queued_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, began, write = threading.Event(), threading.Event(), files.write_file

    def slow_write(*arguments: object) -> tuple[str, int]:
        began.set()
        go.wait(10)
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("grit_integrations.kv.store.disk.write_file", slow_write)
    with KVCacheStore(tmp_path) as store:
        store.put("aa", make_block("aa"))
        store.put("bb", make_block("bb"))
        began.wait(10)
        assert store.delete(["aa", "bb"]) == 2  # one is being written, one waits
        go.set()
        store.flush()
        assert store.stats().blocks == 0 and store.get("aa") is None
        store.put("aa", make_block("aa"))
        store.flush()
        assert store.stats().blocks == 1
    assert len(block_files(tmp_path)) == 1


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    with KVCacheStore(tmp_path / "probe") as store:
        store.put("aa", make_block("aa"))
        store.flush()
        size = store.stats().bytes
    with KVCacheStore(tmp_path / "kv", max_bytes=3 * size, ram_bytes=0) as store:
        for key in ("aa", "bb", "cc"):
            store.put(key, make_block(key))
            store.flush()
        assert store.get("aa") is not None
        store.put("dd", make_block("dd"))
        store.flush()
        assert store.contains(["aa", "bb", "cc", "dd"]) == [True, False, True, True]
        assert store.stats().evicted == 1 and store.stats().bytes == 3 * size


def test_a_block_larger_than_the_store_is_not_written(tmp_path: Path) -> None:
    with KVCacheStore(tmp_path, max_bytes=100) as store:
        assert store.put("aa", make_block("aa"))  # RAM has it
        store.flush()
        assert (store.stats().too_large, store.stats().blocks, store.stats().write_failures) == (1, 0, 0)
    with KVCacheStore(tmp_path, max_bytes=100, strict=True) as store, pytest.raises(CacheFullError, match="max_bytes"):
        store.put("aa", make_block("aa"))
    barely = make_block("aa").nbytes + 10  # the tensors fit, the file does not
    store = KVCacheStore(tmp_path, max_bytes=barely, strict=True)
    store.put("aa", make_block("aa"))
    with pytest.raises(CacheFullError):
        store.flush()
    store.close()
    assert block_files(tmp_path) == []


def test_a_closed_strict_store_tells(tmp_path: Path) -> None:
    store = KVCacheStore(tmp_path, strict=True)
    store.close()
    store.close()
    with pytest.raises(CacheError, match="closed"):
        store.get("aa")


def test_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(120):
                key = f"{(number * 7 + step * 13) % 40:04x}"
                found = store.get(key)
                assert found is None or same(found, make_block(key))
                store.put(key, make_block(key))
                if step % 10 == number:
                    store.delete([key])
                if step % 30 == 0:
                    store.prefetch([f"{step:04x}"])
        except BaseException as error:
            failures.append(error)

    with KVCacheStore(tmp_path, ram_bytes=4_000, max_bytes=20_000) as store:
        threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures[0]
        store.flush()
        stats = store.stats()
        assert stats.bytes <= 20_000 and stats.write_failures == stats.read_failures == stats.quarantined == 0
        found = store.verify(progress=False)
        assert found.checked == found.intact and found.missing == found.adopted == 0


def test_a_fork_opens_its_own(tmp_path: Path) -> None:
    with KVCacheStore(tmp_path) as store:
        store.put("aa", make_block("aa"))
        store.flush()
        child = os.fork()
        if child == 0:
            ok = same(store.get("aa"), make_block("aa")) and store.put("bb", make_block("bb"))
            store.close()
            os._exit(0 if ok else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert same(store.get("bb"), make_block("bb"))


def test_a_forked_child_computes_with_what_it_reads(tmp_path: Path) -> None:
    run_child("compute_in_a_fork", tmp_path, "aa")


def test_a_block_of_a_precision_that_no_file_holds_stays_in_ram(tmp_path: Path) -> None:
    wide = torch.ones(1, 1, 2, 4, dtype=torch.float64)
    with KVCacheStore(tmp_path) as store:
        assert store.put("aa", KVBlock(wide, wide, (1, 2), 0, torch.float64))
        store.flush()
        assert (store.stats().write_failures, store.stats().blocks) == (1, 0)
    assert not list((tmp_path / "tmp").iterdir())
