"""The KV cache beside an index: filled by `grit index`, read by `grit ask`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cached_index import QUESTION, ask, stats
from command_line import good, grit

from grit_integrations import GritLM
from grit_integrations.cli import index_cache
from grit_integrations.cli.cache_settings import read_settings
from grit_integrations.options import Caching


def test_off_unless_asked(library: Path, tmp_path: Path, mini: GritLM) -> None:
    said = good("index", library, "--store", tmp_path / "s")
    assert "KV cache: off. --caching doc keeps what is read" in said
    assert "KV cache" not in good("index", library, "--store", tmp_path / "s")  # said once
    assert "KV cache" not in good("index", library, "--store", tmp_path / "t", "--caching", "off")
    assert "cache:" not in ask(tmp_path / "s")[2]
    assert "cache: 0 of" in ask(tmp_path / "s", "--caching", "doc")[2]  # in memory only
    assert not (tmp_path / "s" / "kv").exists()


def test_answers_start_from_what_indexing_read(indexed: Path) -> None:
    held = stats(indexed)
    assert held["blocks"] == 3
    assert held["caching"] == "doc"
    assert held["model"] == "grit-mini"
    first, read, said = ask(indexed)
    assert read > 50
    assert re.search(r"read \(\d\d %\) · first token after \d+\.\d\d s", said)
    assert ask(indexed)[:2] == (first, read)
    assert stats(indexed)["blocks"] == 3  # questions are not kept on disk
    assert "cache:" in good("ask", QUESTION, "--store", indexed)  # a quote is generated too
    assert stats(indexed)["blocks"] == 3
    assert "cache:" not in ask(indexed, "--caching", "off")[2]


def test_changed_files_get_blocks(indexed: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(GritLM, "cache_documents", lambda self, texts, **_: read.extend(texts))
    (library / "stars.txt").write_text("Stars are born in clouds of gas that fall together under their own weight.")
    assert "KV cache: 4 blocks" in good("index", library, "--store", indexed)  # the old one stays until it is evicted
    assert not read  # the embedding pass has kept it
    said = good("index", "--forget", library / "rails.txt", "--store", indexed)
    assert "grit cache clear deletes all" in said


def test_turning_it_on_fills_it(library: Path, tmp_path: Path, mini: GritLM, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "s"
    good("index", library, "--store", store)
    said = good("index", library, "--store", store, "--caching", "prefix")
    assert "KV cache from now on: caching prefix (was off).\n" in said
    assert re.search(r"KV cache: 3 blocks, [\d.]+ kB of 10 GB, prefix, native", said)
    exact = ask(store)
    assert exact[1] > 0
    assert exact[0] == ask(store, "--caching", "off")[0]
    said = good("index", library, "--store", store, "--caching", "doc", "--precision", "int8", "--cache-size", "20MB")
    changes = "caching doc (was prefix), precision int8 (was native), up to 20 MB (was 10 GB). What was kept before"
    assert changes in " ".join(said.split())
    assert "clear deletes it" in said
    assert "of 20 MB, doc, int8" in said
    monkeypatch.setattr(GritLM, "stored", lambda *_: pytest.fail("nothing is missing"))
    assert "of 20 MB, doc, int8" in good("index", library, "--store", store)  # remembered


def test_an_interrupted_run_is_made_up_for(indexed: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good("cache", "clear", "--yes", "--store", indexed)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(GritLM, "cache_documents", stop)
        closed = []
        patch.setattr(index_cache.KVCacheStore, "__exit__", lambda self, *_: closed.append(self.close()))
        assert grit("index", library, "--store", indexed).exit_code == 130
        assert closed == [None]
    assert not read_settings(indexed).filled
    assert "KV cache: 3 blocks" in good("index", library, "--store", indexed)
    assert read_settings(indexed).filled


def test_a_full_cache_says_so(library: Path, tmp_path: Path, mini: GritLM) -> None:
    said = good("index", library, "--store", tmp_path / "s", "--caching", "doc", "--cache-size", "300kB")
    assert re.search(r"The KV cache is full: [12] passages? not kept", said)
    assert stats(tmp_path / "s")["bytes"] <= 300_000
    tight = good("index", library, "--store", tmp_path / "t", "--caching", "prefix", "--cache-size", "1kB")
    assert "full: 3 passages not kept" in tight
    assert "3 blocks" in good("index", library, "--store", tmp_path / "s", "--cache-size", "3MB")


@pytest.mark.parametrize("mode", ["query", "query-doc", "doc-query"])
def test_every_mode_answers(indexed: Path, mode: Caching) -> None:
    assert ask(indexed, "--caching", mode)[1] > 0  # at least the query, which the search has read
