"""`grit cache`: what a KV cache holds, whether it is whole, and deleting."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from cached_index import ask, blocks, flip, stats
from command_line import good, grit, refusal
from odd_files import ODD, Odd, is_untouched, outside, put_in_place

from grit_integrations import GritLM
from grit_integrations.cli.commands import cache
from grit_integrations.ingest import PassageIndex


def test_stats_and_care_load_no_model(indexed: Path) -> None:
    check = "import sys; from grit_integrations.cli import app; "
    check += f"app(['cache', 'stats', '--store', {str(indexed)!r}], standalone_mode=False); "
    check += "print('transformers.models.mistral.modeling_mistral' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.splitlines()[-1] == "False"
    assert re.search(r"Blocks +3 ", run.stdout)
    assert re.search(r"Size +[\d.]+ kB of 10 GB \(0\.0 %\)", run.stdout)
    assert re.search(r"Tokens +\d+ \([\d,]+ bytes each\)", run.stdout)
    assert re.search(r"Quarantined +0", run.stdout)


def test_a_bad_block_is_found_and_changes_no_answer(indexed: Path, library: Path) -> None:
    before = ask(indexed)
    flip(blocks(indexed)[0])
    assert ask(indexed)[0] == before[0]  # found while answering, and computed again
    flip(blocks(indexed)[1])
    result = grit("cache", "verify", "--store", indexed)
    assert result.exit_code == 1
    assert "Blocks: 2 intact, 1 quarantined" in result.stdout
    assert stats(indexed)["quarantined"] == 2
    assert "Blocks: 2 intact\n" in good("cache", "verify", "--store", indexed)
    assert "KV cache: 3 blocks" in good("index", library, "--store", indexed)
    assert ask(indexed)[:2] == before[:2]


def test_delete(indexed: Path) -> None:
    keys = [path.name.split("-")[0] for path in blocks(indexed)]
    said = good("cache", "delete", keys[0], "abcdef", "--store", indexed)
    assert "Deleted 1 block. 1 key had none." in said
    assert "Deleted 0 blocks." in good("cache", "delete", "--namespace", "nobody", "--store", indexed)
    assert "Deleted 2 blocks." in good("cache", "delete", "--namespace", "", "--store", indexed)
    assert not blocks(indexed)
    both = refusal("cache", "delete", keys[0], "--namespace", "x", "--store", indexed)
    assert both == refusal("cache", "delete", "--store", indexed)
    assert "KEY... or --namespace NAME" in both


def test_clear_asks(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Give --yes" in refusal("cache", "clear", "--store", indexed)
    monkeypatch.setattr(cache, "is_terminal", lambda: True)
    kept = grit("cache", "clear", "--store", indexed, given="n\n")
    assert kept.exit_code == 1
    assert re.search(r"Delete 3 blocks \([\d.]+ kB\) of", kept.output)
    assert len(blocks(indexed)) == 3
    assert "Deleted 3 blocks." in good("cache", "clear", "--store", indexed, given="y\n")
    assert not blocks(indexed)
    assert ask(indexed)[1] == 0


def test_what_goes_wrong_is_one_line(library: Path, tmp_path: Path, tiny: GritLM) -> None:
    new, plain = tmp_path / "new", tmp_path / "plain"
    PassageIndex(plain, tiny, create=True)
    assert "--caching fast is unknown. Use one of off, prefix, doc." in refusal("index", library, "--caching", "fast")
    assert "doc-query" in refusal("ask", "What?", "--caching", "fast")
    assert "native, int8" in refusal("index", library, "--precision", "int4")
    size = refusal("index", library, "--store", new, "--cache-size", "10XB")
    assert "--cache-size: '10XB' is not a size" in size
    assert "takes no --caching" in refusal("index", "--forget", library, "--store", plain, "--caching", "doc")
    for command in ("stats", "verify", "clear"):
        assert "no store at" in refusal("cache", command, "--store", new)
        assert "has no KV cache (caching is off). Fill one" in refusal("cache", command, "--store", plain)
    assert not new.exists()
    assert not (plain / "kv").exists()


CARE = [["stats"], ["verify"], ["clear", "--yes"], ["delete", "--namespace", ""]]


@pytest.mark.parametrize("care", CARE, ids=lambda care: care[0])
def test_a_cache_that_cannot_be_reached_is_not_said_to_be_empty_or_whole(
    indexed: Path, care: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grit_integrations.kv.store.opening._PATIENCE", 0.1)
    with sqlite3.connect(indexed / "kv" / "index.sqlite", isolation_level=None) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        other.execute("UPDATE blocks SET hits = hits")
        assert "database is locked" in refusal("cache", *care, "--store", indexed)
    other.close()
    assert len(blocks(indexed)) == 3
    assert "Blocks: 3 intact\n" in good("cache", "verify", "--store", indexed)


@pytest.mark.parametrize("care", CARE, ids=lambda care: care[0])
def test_a_folder_with_other_files_is_refused_and_not_touched(indexed: Path, care: list[str]) -> None:
    shutil.rmtree(indexed / "kv")
    (indexed / "kv" / "tmp").mkdir(parents=True)
    (indexed / "kv" / "tmp" / "draft.txt").write_text("the only copy")
    assert "holds other files" in refusal("cache", *care, "--store", indexed)
    assert [path.name for path in (indexed / "kv").rglob("*")] == ["tmp", "draft.txt"]


@pytest.mark.parametrize("make", ODD)
def test_what_stands_in_a_block_s_place_is_put_aside(indexed: Path, make: Odd) -> None:
    outsiders = outside(indexed / "kv" / "any")
    put_in_place(blocks(indexed)[0], make)
    result = grit("cache", "verify", "--store", indexed)
    assert result.exit_code == 1
    assert "Blocks: 2 intact, 1 quarantined" in result.stdout
    assert stats(indexed)["blocks"] == 2
    assert "Deleted 2 blocks." in good("cache", "clear", "--yes", "--store", indexed)
    assert is_untouched(outsiders)


@pytest.mark.parametrize("command", ["stats", "verify", "clear", "delete"])
def test_help(command: str) -> None:
    text = good("cache", command, "--help")
    assert text.count(f"grit cache {command}") >= 3  # its usage and two examples
    assert "--store" in text
    wanted = {"stats": "--json", "clear": "--yes", "delete": "--namespace"}
    assert wanted.get(command, "") in text
