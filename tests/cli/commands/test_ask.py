"""`grit ask`: a quote or the model's own text, from the passages that fit, with their sources."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from command_line import RUN, good, refusal

from grit_integrations import Decoding, GritLM
from grit_integrations.cli.model_choice import is_bundled
from grit_integrations.ingest import PassageIndex
from grit_integrations.ingest.passage_index import QUERY_INSTRUCTION
from grit_integrations.prompts.formats import Message


def quoted(said: str) -> tuple[str, str]:
    """Return the quote that an answer begins with, and the number of its source."""
    found = re.match(r"“([^”]+)” \[(\d+)\]", said)
    assert found is not None, said
    return " ".join(found[1].split()), found[2]


def test_index_ask_and_forget(docs: Path, tmp_path: Path, tiny_path: Path) -> None:
    store = tmp_path / "s"
    first = good("index", docs, "--store", store, "--model", tiny_path)
    assert "Files: 2 added" in first
    assert "Passages: 2" in first
    (docs / "stars.txt").unlink()
    (docs / "rails.html").write_text("<p>A railway crosses the plain.</p>")
    (docs / "x.pdf").write_bytes(b"no pdf")
    (docs / "y.bin").write_bytes(b"\x00")
    second = good("index", docs, "--store", store)  # the store's model
    assert "Files: 1 added, 1 unchanged, 1 removed, 1 not readable, 1 of other kinds" in second
    assert "x.pdf: the file is no readable PDF" in " ".join(second.split())  # a long path moves the lines' ends
    asked = good("ask", "What pumps blood?", "--store", store, "--quote", "-k", 2)
    quote, number = quoted(asked)
    source = next(line for line in asked.splitlines() if line.startswith(f" [{number}]")).split()[2]
    text = (docs.parent / source if Path(source).is_absolute() else Path(source)).read_text()
    assert quote in " ".join(re.sub("<[^>]+>", "", text).split())
    assert "Sources" in asked
    assert "heart.md" in asked
    assert "rails.html" in asked
    assert "sentences of the passages" not in asked  # only said of grit-mini
    good("index", "--forget", docs / "heart.md", "--store", store)
    assert "heart.md" not in good("ask", "What pumps blood?", "--store", store, "--quote")


def test_ask_writes_what_the_model_generates(store: Path, tiny: GritLM) -> None:
    asked = good("ask", "What pumps blood?", "--store", store, "--free", "--max-tokens", 8, "-k", 1)
    hit = PassageIndex(store, tiny).search("What pumps blood?", k=1)[0]
    passages = [hit.document.page_content]
    written = tiny.generate("What pumps blood?", passages, decoding=Decoding(max_new_tokens=8), caching="off")
    assert written.text.strip() in asked
    assert "cache:" not in asked  # it is off
    assert hit.source.rsplit("/", 1)[-1] in asked


def test_ask_answers_from_the_passages_that_the_model_judges_best(store: Path, tiny: GritLM) -> None:
    asked = good("ask", "What pumps blood?", "--store", store, "--free", "--max-tokens", 4, "-k", 1, "--rerank", 2)
    hits = PassageIndex(store, tiny).search("What pumps blood?", k=2)
    (best,) = tiny.rerank("What pumps blood?", [hit.document.page_content for hit in hits], top_n=1)
    assert "(relevance)" in asked
    (line,) = (line for line in asked.splitlines() if line.startswith(" [1]"))
    assert f"{best.score:.3f}" in line
    assert Path(hits[best.index].source).name in line
    assert "(cosine similarity)" in good("ask", "What pumps blood?", "--store", store, "--max-tokens", 4)


def test_other_models_write_by_default(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = good("ask", "What pumps blood?", "--store", store, "--max-tokens", 4)
    assert "“" not in asked.split("Sources")[0]


def test_passages_that_do_not_fit_are_left_out(docs: Path, tmp_path: Path) -> None:
    short = write_checkpoint(tmp_path / "short", max_position_embeddings=96)
    store = tmp_path / "s"
    good("index", docs, "--store", store, "--model", short)
    assert "of 2 passages did not fit" in good("ask", "What?", "--store", store, "--free", "--max-tokens", 32)
    assert "Shorten it" in refusal("ask", "word " * 45, "--store", store, "--free", "--max-tokens", 48)
    assert "one passage have" in refusal("ask", "word " * 45, "--store", store, "--quote", "--max-tokens", 48)


@pytest.mark.parametrize("mode", ["off", "query", "query-doc", "doc-query"])
def test_the_window_is_used_to_its_last_token(mode: str, docs: Path, tmp_path: Path) -> None:
    short = write_checkpoint(tmp_path / "short", max_position_embeddings=160)
    store = tmp_path / "s"
    good("index", docs, "--store", store, "--model", short)
    grit = GritLM(short).with_options(caching=mode)
    texts = PassageIndex(store, grit).texts()
    needed = [
        len(grit.prompt([Message("user", "What?")], found, query_instruction=QUERY_INSTRUCTION))
        for found in (texts, texts[:1], texts[1:])
    ]
    for free, left in ((160 - needed[0], 0), (160 - needed[0] + 1, 1)):
        said = good("ask", "What?", "--store", store, "--free", "--max-tokens", free, "--caching", mode)
        assert ("1 of 2 passages did not fit" in said) == bool(left)


def test_a_pipe_gets_plain_lines(store: Path, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", RUN, "ask", "What pumps blood?", "--store", str(store), "--quote"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    assert "\x1b" not in run.stdout
    assert "docs/heart.md" in run.stdout  # relative to where the command runs


def test_bundled_model_answers_in_quotes(mini: GritLM, docs: Path, tmp_path: Path) -> None:
    assert is_bundled(mini)
    good("index", docs, "--store", tmp_path / "s")
    asked = good("ask", "What pumps blood?", "--store", tmp_path / "s")
    quote, _ = quoted(asked)
    assert any(quote in path.read_text() for path in docs.iterdir())
    assert "grit-mini answers with sentences of the passages" in asked
