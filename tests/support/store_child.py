"""Blocks that their key decides, and what other processes do with a store. Run as a script: role, path, arguments."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import torch

from grit_integrations.kv.blocks import KVBlock
from grit_integrations.kv.store.store import KVCacheStore


def make_block(key: str, tokens: int = 3, dtype: torch.dtype = torch.float32, layers: int = 2) -> KVBlock:
    """The block of a key: whoever has the key knows every bit that the store must give back."""
    random_numbers = torch.Generator().manual_seed(int(key, 16) % 2**31)
    keys, values = (torch.randn(layers, 2, tokens, 8, generator=random_numbers).to(dtype) for _ in range(2))
    return KVBlock(keys, values, tuple(range(5, 5 + tokens)), 7, dtype)


def same(found: KVBlock | None, wanted: KVBlock) -> bool:
    """Whether two blocks have the same bits."""
    if found is None or (found.position, found.dtype) != (wanted.position, wanted.dtype):
        return False
    one, other = found.tensors(), wanted.tensors()
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def large_block(key: str) -> KVBlock:
    """A block of 1.6 MB, which is read in one piece all the same."""
    return make_block(key, tokens=6000)


def check_get(path: str, *keys: str) -> None:
    with KVCacheStore(path) as store:
        assert all(same(store.get(key), make_block(key)) for key in keys)


def hammer(path: str, seed: str, seconds: str, max_bytes: str) -> None:
    """Put, get and evict until the time is over; every block that comes back must be right."""
    rng, deadline = random.Random(int(seed)), time.monotonic() + float(seconds)
    hits = written = 0
    while time.monotonic() < deadline:
        stop = min(deadline, time.monotonic() + rng.random())
        with KVCacheStore(path, max_bytes=int(max_bytes), ram_bytes=10_000, strict=True) as store:
            hits += _hammer(store, rng, stop)
            store.flush()
            stats = store.stats()
        written += stats.written
        assert stats.quarantined == 0, stats
    assert hits > 0 and written > 0


def _hammer(store: KVCacheStore, rng: random.Random, deadline: float) -> int:
    hits = 0
    while time.monotonic() < deadline:
        key = f"{rng.randrange(60):04x}"
        block = make_block(key, tokens=1 + int(key, 16) % 20)
        found = store.get(key)
        hits += found is not None
        assert found is None or same(found, block), key
        store.put(key, block)
        if rng.random() < 0.05:
            store.flush()
        if rng.random() < 0.02:
            store.delete([key])
    return hits


def fill(path: str) -> None:
    """Write to a disk that is full for every file larger than 100 kB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = KVCacheStore(path)
    small, large = make_block("aa"), make_block("bb", tokens=2000)
    store.put("aa", small)
    store.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    assert store.put("bb", large)
    store.flush()
    stats = store.stats()
    assert (stats.write_failures, stats.written, stats.evicted, stats.blocks) == (1, 1, 0, 1), stats
    assert not list((Path(path) / "tmp").iterdir())
    assert same(store.get("bb"), large) and same(store.get("aa"), small)
    store.close()
    strict = KVCacheStore(path, strict=True)
    strict.put("bb", large)
    try:
        strict.flush()
    except Exception as error:
        assert type(error).__name__ == "CacheFullError", error
    else:
        raise AssertionError("a full disk was not told")


def read_only(path: str, key: str) -> None:
    """Read as a user who may not write."""
    os.setgid(65534)
    os.setuid(65534)
    store = KVCacheStore(path)
    assert same(store.get(key), make_block(key)), store.stats()
    assert store.put("bb", make_block("bb")) and same(store.get("bb"), make_block("bb"))
    store.flush()
    assert store.stats().write_failures == 1 and store.stats().blocks == 1, store.stats()
    assert not store.admit("cc", 2) and store.admit("cc", 2)
    assert store.verify().intact == 1
    store.record_speed("model", load=5.0)
    assert store.speeds("model").load == 5.0
    store.close()


def survive_kills(path: str, count: str, seed: str) -> None:
    """Fork a writer and kill it at a random moment, `count` times; nothing that it reported may be lost."""
    torch.set_num_threads(1)
    rng, reported = random.Random(int(seed)), []
    for number in range(int(count)):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _write_for_ever(path, number, writer)
        os.close(writer)
        time.sleep(0.02 + rng.random() * 0.25)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(reader) as lines:
            reported += [line.strip() for line in lines if line.endswith("\n")]
        with KVCacheStore(path, ram_bytes=0) as store:
            found = store.verify(progress=False)
            assert found.quarantined == found.missing == 0 and found.checked == found.intact, found
            assert not list((Path(path) / "tmp").iterdir())
            lost = [key for key in reported if not same(store.get(key), make_block(key, tokens=50))]
            assert not lost, (number, lost)
    assert len(reported) > int(count), reported
    sys.stdout.write(f"{len(reported)}\n")


def _write_for_ever(path: str, number: int, pipe: int) -> None:
    store = KVCacheStore(path)
    for block in range(1_000_000):
        key = f"{number:04x}{block:06x}"
        store.put(key, make_block(key, tokens=50))
        store.flush()
        os.write(pipe, f"{key}\n".encode())


def leave_open(path: str, key: str) -> None:
    """End without closing: what was put must be on disk all the same."""
    store = KVCacheStore(path)
    store.put(key, make_block(key))
    globals()["kept"] = store


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
