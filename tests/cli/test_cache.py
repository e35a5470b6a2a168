"""The KV cache beside an index: filled by `grit index`, read by `grit ask`, looked after by `grit cache`."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import good, grit, refusal
from rich.console import Console

from grit_integrations import GritLM
from grit_integrations.cli import cache, caching
from grit_integrations.cli.caching import CacheSettings, needs_filling, read_settings, write_settings
from grit_integrations.cli.output import counted, disk_size, print_reuse
from grit_integrations.ingest import PassageIndex
from grit_integrations.options import Caching
from grit_integrations.results import CacheReport, Generation, Timings, Usage

QUESTION = "What does the heart do with the blood?"
TEXTS = {
    "heart.md": "# Heart\n\nThe heart pumps blood through the body. It beats about a hundred thousand times a day.",
    "stars.txt": "Stars shine by fusion in their cores. They are very far away, and their light takes years.",
    "rails.txt": "A railway crosses the plain. The first trains carried coal from the mines to the harbour.",
}


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def indexed(tmp_path: Path, docs: Path, mini: GritLM) -> Path:
    """An index with the KV cache of three passages."""
    good("index", docs, "--store", tmp_path / "s", "--caching", "doc")
    return tmp_path / "s"


def stats(store: Path) -> dict[str, object]:
    return dict(json.loads(good("cache", "stats", "--store", store, "--json")))


def ask(store: Path, *options: object) -> tuple[str, int, str]:
    """Return the answer, the prompt tokens that were read from the cache, and everything that was printed.

    Without reranking: what verdicts read would be in the cache, whatever was stored.
    """
    said = good("ask", QUESTION, "--store", store, "--free", "--rerank", 0, "--max-tokens", 4, *options)
    match = re.search(r"cache: ([\d,]+) of ([\d,]+) prompt tokens read", said)
    return said.split("cache:")[0].split("\nSources")[0].strip(), int(match[1]) if match else 0, said


def blocks(store: Path) -> list[Path]:
    return sorted((store / "kv" / "blocks").rglob("*.safetensors"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


# Filling and reading


def test_off_unless_asked(docs: Path, tmp_path: Path, mini: GritLM) -> None:
    said = good("index", docs, "--store", tmp_path / "s")
    assert "KV cache: off. --caching doc keeps what is read" in said
    assert "KV cache" not in good("index", docs, "--store", tmp_path / "s")  # said once
    assert "KV cache" not in good("index", docs, "--store", tmp_path / "t", "--caching", "off")
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


def test_changed_files_get_blocks(indexed: Path, docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(GritLM, "cache_documents", lambda self, texts, **_: read.extend(texts))
    (docs / "stars.txt").write_text("Stars are born in clouds of gas that fall together under their own weight.")
    assert "KV cache: 4 blocks" in good("index", docs, "--store", indexed)  # the old one stays until it is evicted
    assert not read  # the embedding pass has kept it
    said = good("index", "--forget", docs / "rails.txt", "--store", indexed)
    assert "grit cache clear deletes all" in said


def test_turning_it_on_fills_it(docs: Path, tmp_path: Path, mini: GritLM, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "s"
    good("index", docs, "--store", store)
    said = good("index", docs, "--store", store, "--caching", "prefix")
    assert "KV cache from now on: caching prefix (was off).\n" in said
    assert re.search(r"KV cache: 3 blocks, [\d.]+ kB of 10 GB, prefix, native", said)
    exact = ask(store)
    assert exact[1] > 0
    assert exact[0] == ask(store, "--caching", "off")[0]
    said = good("index", docs, "--store", store, "--caching", "doc", "--precision", "int8", "--cache-size", "20MB")
    changes = "caching doc (was prefix), precision int8 (was native), up to 20 MB (was 10 GB). What was kept before"
    assert changes in " ".join(said.split())
    assert "clear deletes it" in said
    assert "of 20 MB, doc, int8" in said
    monkeypatch.setattr(GritLM, "stored", lambda *_: pytest.fail("nothing is missing"))
    assert "of 20 MB, doc, int8" in good("index", docs, "--store", store)  # remembered


def test_an_interrupted_run_is_made_up_for(indexed: Path, docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good("cache", "clear", "--yes", "--store", indexed)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(GritLM, "cache_documents", stop)
        closed = []
        patch.setattr(caching.KVCacheStore, "__exit__", lambda self, *_: closed.append(self.close()))
        assert grit("index", docs, "--store", indexed).exit_code == 130
        assert closed == [None]
    assert not read_settings(indexed).filled
    assert "KV cache: 3 blocks" in good("index", docs, "--store", indexed)
    assert read_settings(indexed).filled


def test_a_full_cache_says_so(docs: Path, tmp_path: Path, mini: GritLM) -> None:
    said = good("index", docs, "--store", tmp_path / "s", "--caching", "doc", "--cache-size", "300kB")
    assert re.search(r"The KV cache is full: [12] passages? not kept", said)
    assert stats(tmp_path / "s")["bytes"] <= 300_000
    tight = good("index", docs, "--store", tmp_path / "t", "--caching", "prefix", "--cache-size", "1kB")
    assert "full: 3 passages not kept" in tight
    assert "3 blocks" in good("index", docs, "--store", tmp_path / "s", "--cache-size", "3MB")


@pytest.mark.parametrize("mode", ["query", "query-doc", "doc-query"])
def test_every_mode_answers(indexed: Path, mode: Caching) -> None:
    assert ask(indexed, "--caching", mode)[1] > 0  # at least the query, which the search has read


# Care


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


def test_a_bad_block_is_found_and_changes_no_answer(indexed: Path, docs: Path) -> None:
    before = ask(indexed)
    flip(blocks(indexed)[0])
    assert ask(indexed)[0] == before[0]  # found while answering, and computed again
    flip(blocks(indexed)[1])
    result = grit("cache", "verify", "--store", indexed)
    assert result.exit_code == 1
    assert "Blocks: 2 intact, 1 quarantined" in result.stdout
    assert stats(indexed)["quarantined"] == 2
    assert "Blocks: 2 intact\n" in good("cache", "verify", "--store", indexed)
    assert "KV cache: 3 blocks" in good("index", docs, "--store", indexed)
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


# Errors and help


def test_what_goes_wrong_is_one_line(docs: Path, tmp_path: Path, tiny: GritLM) -> None:
    new, plain = tmp_path / "new", tmp_path / "plain"
    PassageIndex(plain, tiny, create=True)
    assert "--caching fast is unknown. Use one of off, prefix, doc." in refusal("index", docs, "--caching", "fast")
    assert "doc-query" in refusal("ask", "What?", "--caching", "fast")
    assert "native, int8" in refusal("index", docs, "--precision", "int4")
    size = refusal("index", docs, "--store", new, "--cache-size", "10XB")
    assert "--cache-size: '10XB' is not a size" in size
    assert "takes no --caching" in refusal("index", "--forget", docs, "--store", plain, "--caching", "doc")
    for command in ("stats", "verify", "clear"):
        assert "no store at" in refusal("cache", command, "--store", new)
        assert "has no KV cache (caching is off). Fill one" in refusal("cache", command, "--store", plain)
    assert not new.exists()
    assert not (plain / "kv").exists()


def test_a_card_that_was_edited_is_refused(tmp_path: Path, tiny: GritLM) -> None:
    PassageIndex(tmp_path / "s", tiny, create=True)
    card = json.loads((tmp_path / "s" / "store.json").read_text())
    for entry in (["doc"], {"caching": "fast"}, {"size": "much"}, {"other": 1}):
        (tmp_path / "s" / "store.json").write_text(json.dumps({**card, "kv_cache": entry}))
        assert "does not say how the KV cache is kept" in refusal("cache", "stats", "--store", tmp_path / "s")


def test_settings_survive(tmp_path: Path, tiny: GritLM) -> None:
    PassageIndex(tmp_path / "s", tiny, create=True)
    assert read_settings(tmp_path / "s") == read_settings(tmp_path / "none") == CacheSettings()
    settings = CacheSettings("doc", "int8", 5, filled=True)
    write_settings(tmp_path / "s", settings)
    assert read_settings(tmp_path / "s") == settings
    assert settings.changed(None, "int8", None) == settings
    assert settings.changed(None, None, "6") == CacheSettings("doc", "int8", 6)
    needs_filling(tmp_path / "s")
    assert not read_settings(tmp_path / "s").filled
    assert PassageIndex(tmp_path / "s", tiny).splitter.tokens == 192  # the card's other entries are there


@pytest.mark.parametrize("command", ["stats", "verify", "clear", "delete"])
def test_help(command: str) -> None:
    text = good("cache", command, "--help")
    assert text.count(f"grit cache {command}") >= 3  # its usage and two examples
    assert "--store" in text
    wanted = {"stats": "--json", "clear": "--yes", "delete": "--namespace"}
    assert wanted.get(command, "") in text


def test_help_names_the_options() -> None:
    index = good("index", "--help")
    assert all(option in index for option in ("--caching", "--precision", "--cache-size"))
    for command in ("ask", "chat"):
        assert "query-doc or" in " ".join(good(command, "--help").replace("│", " ").split())


# Small things


def generation(mode: Caching, read: int, **report: object) -> Generation:
    timings = Timings(queue=0.0, load=0.0, prefill=0.0, time_to_first_token=0.124, decode=0.0)
    return Generation(
        "x",
        (1,),
        "stop",
        Usage(1251, 1, read),
        timings,
        CacheReport(mode, **report),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("written", "line"),
    [
        (generation("off", 0), ""),
        (
            generation("doc", 1204, seconds_saved=1.93),
            "cache: 1,204 of 1,251 prompt tokens read (96 %) · first token after 0.12 s · 1.9 s saved\n",
        ),
        (generation("doc", 0), "cache: 0 of 1,251 prompt tokens read · first token after 0.12 s\n"),
        (
            generation("prefix", 3, seconds_saved=-1.0, declined=("slow",)),
            "cache: 3 of 1,251 prompt tokens read (0 %) · first token after 0.12 s · 1 block computed, which is faster "
            "here\n",
        ),
    ],
)
def test_the_line_about_reuse(written: Generation, line: str) -> None:
    out = Console(width=200, file=io.StringIO())
    print_reuse(out, written)
    assert out.file.getvalue() == line  # type: ignore[attr-defined]


def test_counts_and_sizes() -> None:
    assert [counted(n, "block") for n in (0, 1, 1200)] == ["0 blocks", "1 block", "1,200 blocks"]
    assert [disk_size(n) for n in (5, 48_100_000, 10**10)] == ["5 B", "48.1 MB", "10 GB"]
