"""The record manager as LangChain's `index` uses it."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from grit_integrations.ingest import SqliteRecordManager


def test_record_manager_as_langchain_wants_it(tmp_path: Path) -> None:
    records = SqliteRecordManager(tmp_path / "records.sqlite")
    begin = records.get_time()
    records.update(["a", "b", "c"], group_ids=["one", "two", None])
    assert records.exists(["c", "x", "a"]) == [True, False, True]
    middle = records.get_time()
    assert middle > begin
    records.update(["a"], time_at_least=middle)  # a refresh without groups keeps the group
    assert records.list_keys(before=middle) == ["b", "c"]
    assert records.list_keys(after=begin, group_ids=["one"]) == ["a"]
    assert records.list_keys(group_ids=[]) == []
    assert len(records.list_keys(limit=2)) == 2
    assert records.within(["two"]).list_keys() == ["b"]
    assert records.within(["two"]).list_keys(group_ids=["one"]) == []
    records.delete_keys(["a", "x"])
    assert SqliteRecordManager(tmp_path / "records.sqlite").list_keys() == ["b", "c"]
    with pytest.raises(ValueError, match="1 keys and 2 group ids"):
        records.update(["a"], group_ids=["one", "two"])


def test_record_manager_asynchronous_twins() -> None:
    async def use() -> list[object]:
        records = SqliteRecordManager(":memory:")
        await records.acreate_schema()
        begin = await records.aget_time()
        await records.aupdate(["a", "b"], group_ids=["one", "two"], time_at_least=begin)
        await records.adelete_keys(["b"])
        return [await records.aexists(["a", "b"]), await records.alist_keys(group_ids=["one"])]

    assert asyncio.run(use()) == [[True, False], ["a"]]


def test_time_never_runs_backwards(tmp_path: Path) -> None:
    records = SqliteRecordManager(":memory:")
    tomorrow = time.time() + 86400
    records.update(["a"], time_at_least=tomorrow)
    assert records.get_time() > tomorrow
    assert records.list_keys(before=records.get_time()) == ["a"]


def test_records_from_many_threads() -> None:
    records = SqliteRecordManager(":memory:")
    threads = [
        threading.Thread(target=lambda n=n: [records.update([f"{n}-{i}"], group_ids=["f"]) for i in range(50)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(records.list_keys()) == 200
