"""Options, keys and namespaces that cannot be, and the oddest that can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from store_child import make_block, same

from grit_integrations.errors import OptionError
from grit_integrations.kv.store.store import KVCacheStore


@pytest.mark.parametrize(
    "wrong",
    [
        {"precision": "int4"},
        {"max_bytes": "ten"},
        {"ram_bytes": -1},
        *(
            {"namespace": wrong}
            for wrong in ("\ud800", "a\0b", "a\nb", "\x1b[2J", "\x85", "x" * 257, "x" * 3_000_000, 5, b"a")
        ),
    ],
    ids=lambda wrong: repr(wrong)[:40],
)
def test_wrong_options_are_told(wrong: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        KVCacheStore(None, **wrong)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="hexadecimal"):
        KVCacheStore(None).put("../aa", make_block("aa"))


@pytest.mark.parametrize("namespace", ["\ud800", "a\0b", "x" * 3_000_000, 5])
def test_a_namespace_that_cannot_be_is_not_one_without_blocks(namespace: Any) -> None:
    with pytest.raises(OptionError, match="up to 256 characters") as raised:
        KVCacheStore(None).delete(namespace=namespace)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("namespace", ["x" * 256, "\U0001f98a" * 256, "müller & söhne/ 'x'; --"])
def test_the_longest_and_oddest_namespaces_that_can_be(tmp_path: Path, namespace: str) -> None:
    with KVCacheStore(tmp_path, namespace=namespace) as store:
        store.put("aa", make_block("aa"))
    with KVCacheStore(tmp_path, namespace=namespace, ram_bytes=0) as store:
        assert same(store.get("aa"), make_block("aa")) and store.stats().namespaces.keys() == {namespace}
        assert store.verify(progress=False).quarantined == 0 and store.delete(namespace=namespace) == 1


@pytest.mark.parametrize("key", ["\ud800", "", "a", "../aa", "AA", "aa\n", "a" * 129, 5, None])
def test_what_is_no_key_is_not_there(tmp_path: Path, key: Any) -> None:
    with KVCacheStore(tmp_path, strict=True) as store:
        assert store.get(key) is store.peek(key) is store.disk_bytes(key) is None
        assert store.contains([key]) == [False] and not store.admit(key, 2) and store.delete([key]) == 0
        store.prefetch([key])
        with pytest.raises(OptionError, match="is not a key"):
            store.put(key, make_block("aa"))
