"""Several processes on one store, and processes that are killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from store_processes import CHILD, block_files, run_child

from grit_integrations.kv.store.store import KVCacheStore

_BOUND = 30_000


def test_processes_write_and_evict_at_once(tmp_path: Path) -> None:
    children = [
        subprocess.Popen(
            [sys.executable, str(CHILD), "hammer", str(tmp_path), str(seed), "4", str(_BOUND)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(2)
    ]
    errors = [child.communicate(timeout=120)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], errors
    assert sum(path.stat().st_size for path in block_files(tmp_path)) <= _BOUND
    with KVCacheStore(tmp_path, max_bytes=_BOUND) as store:
        found = store.verify(progress=False)
        assert found.checked == found.intact > 0 and found.quarantined == found.missing == found.adopted == 0
        assert store.stats().bytes == sum(path.stat().st_size for path in block_files(tmp_path)) <= _BOUND


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.extended)])
def test_nothing_reported_is_lost_when_the_writer_is_killed(tmp_path: Path, kills: int) -> None:
    run_child("survive_kills", tmp_path, kills, 5)
