"""Objects for the tests of reranking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from passages import Make

from grit_integrations import GritLM, KVCacheStore


@pytest.fixture
def make(tiny_path: Path) -> Make:
    """Objects that share the tiny model's weights, each with a store of its own."""

    def grit(store: KVCacheStore | None = None, **options: Any) -> GritLM:
        store = KVCacheStore(None, ram_bytes="64MB") if store is None else store
        return GritLM.from_pretrained(tiny_path, kv_store=store, **options)

    return grit
