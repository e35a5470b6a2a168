"""Any sequence of calls, against a dictionary."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from store_child import make_block, same
from store_processes import block_files

from grit_integrations.kv.store.store import KVCacheStore

_KEYS = st.integers(0, 9).map(lambda number: f"{number:04x}")


class Store(RuleBasedStateMachine):
    """Blocks on disk, in the order of their last use; the model knows which must be there, and which may not."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "kv"
        self.store: KVCacheStore | None = None
        self.order: list[str] = []  # keys on disk, least recently used first

    @initialize(room=st.integers(1, 6), ram=st.sampled_from([0, 1500, 10**6]))
    def open(self, room: int, ram: int) -> None:
        with KVCacheStore(self.path) as probe:
            probe.put("0000", make_block("0000"))
            probe.flush()
            size = probe.stats().bytes
            probe.clear()
        self.room, self.options = room, {"max_bytes": room * size + size // 2, "ram_bytes": ram}
        self.store = KVCacheStore(self.path, strict=True, **self.options)

    @rule(key=_KEYS)
    def put(self, key: str) -> None:
        self.store.put(key, make_block(key))
        self.store.flush()
        if key not in self.order:
            self.order = [*self.order, key][-self.room :]

    @rule(key=_KEYS)
    def get(self, key: str) -> None:
        found = self.store.get(key)
        assert found is None or same(found, make_block(key))
        if key in self.order:
            assert found is not None
            self.order = [*(other for other in self.order if other != key), key]

    @rule(key=_KEYS)
    def delete(self, key: str) -> None:
        self.store.delete([key])
        self.order = [other for other in self.order if other != key]
        assert self.store.get(key) is None and self.store.contains([key]) == [False]

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = KVCacheStore(self.path, strict=True, **self.options)

    @rule()
    def lose_the_index(self) -> None:
        self.store.close()
        for path in self.path.glob("index.sqlite*"):
            path.unlink()
        self.store = KVCacheStore(self.path, strict=True, **self.options)
        self.order = [key for key in sorted(self.order) if self.store.get(key) is not None]

    # Unique: whether a key's second put finds the first still queued, and is nothing, is up to the writer.
    @rule(keys=st.lists(_KEYS, max_size=4, unique=True))
    def put_many(self, keys: list[str]) -> None:
        for key in keys:
            self.store.put(key, make_block(key))
        self.store.flush()
        for key in keys:
            if key not in self.order:
                self.order = [*self.order, key][-self.room :]

    @invariant()
    def files_are_those_of_the_model(self) -> None:
        if self.store is None:
            return
        assert [path.name.split("-")[0] for path in block_files(self.path)] == sorted(self.order)
        size = sum(path.stat().st_size for path in block_files(self.path))
        assert self.store.stats().bytes == size <= self.options["max_bytes"]

    def teardown(self) -> None:
        if self.store is not None:
            self.store.close()
        self.folder.cleanup()


TestStore: Any = Store.TestCase
TestStore.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
