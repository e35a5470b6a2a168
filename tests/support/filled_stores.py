"""Stores with blocks in them, closed, for a test to damage."""

from __future__ import annotations

from pathlib import Path

from store_child import make_block
from store_processes import block_files

from grit_integrations.kv.blocks import KVBlock
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
