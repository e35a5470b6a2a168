"""The demo: both frameworks over one collection and one set of weights; with grit-mini, the right sources."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from demo_corpus import CORPUS, write_question
from rich.console import Console

from grit_integrations import GritLM, IngestError
from grit_integrations.cli.demo.corpus import read_questions
from grit_integrations.cli.demo.demo_run import run_demo
from grit_integrations.ingest import PassageIndex


def screen() -> Console:
    return Console(width=100, record=True, file=io.StringIO())


def widest_prose(text: str) -> int:
    """Return the width of the longest line that names no path: paths are not broken, whatever their length."""
    return max(len(line.rstrip()) for line in text.splitlines() if not re.search(r"\w/\w", line))


def test_no_corpus(tmp_path: Path, tiny: GritLM) -> None:
    with pytest.raises(IngestError, match="cannot be read as questions"):
        run_demo(screen(), tiny, corpus=tmp_path)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"answer": "liver"}, r"Question 1 \(What pumps blood\?\) expects 'liver', which body/heart.md does not have"),
        ({"sources": ["body/heart.md", "body/skin.md"]}, "body/skin.md does not have"),
        ({"sources": ["body/liver.md"]}, r"Question 1 .* names the source body/liver.md: the file cannot be opened"),
        ({"sources": []}, "Question 1 .* needs at least one source"),
        ({"answer": " "}, "an answer that is not blank"),
    ],
)
def test_questions_are_checked_before_they_are_asked(
    small: Path, tiny: GritLM, changes: dict[str, object], complaint: str
) -> None:
    write_question(small, **changes)
    out = screen()
    with pytest.raises(IngestError, match=complaint):
        run_demo(out, tiny, corpus=small)
    assert out.export_text() == ""


@pytest.mark.parametrize("quote", [True, False])
def test_what_is_printed(small: Path, tmp_path: Path, tiny: GritLM, quote: bool) -> None:
    out = screen()
    run_demo(out, tiny, corpus=small, store=tmp_path / "store", quote=quote)
    text = out.export_text()
    assert "Indexed 3 passages of 3 files" in text
    assert text.count("retrieved and reranked in") == 2
    assert len(re.findall(r"“[^”]+” \[[123]\]", text)) == (2 if quote else 0)
    assert "✓ body/heart.md" in text
    assert "GritEmbeddings, GritReranker, ChatGrit, GritEmbedding, GritRerank, GritLLM" in " ".join(text.split())
    assert "The right source must be among the first 3 for 1 of 1: passed." in text  # there are no more than 3
    assert ("The quoted sentences must have the right answer for 1 of 1" in text) == quote
    assert widest_prose(text) <= 100
    again = screen()
    run_demo(again, tiny, corpus=small, store=tmp_path / "store", quote=quote)
    assert "nothing had changed" in again.export_text()


def test_a_missed_source_fails_the_demo(small: Path, tmp_path: Path, tiny: GritLM) -> None:
    (small / "body" / "liver.md").write_text("# Liver\n\nThe liver stores sugar.")
    index = PassageIndex(tmp_path / "store", tiny, create=True)
    index.index([small / "body"])
    found = index.search("What pumps blood?", k=4)
    ranked = tiny.rerank("What pumps blood?", [hit.document.page_content for hit in found])
    fourth = found[ranked[3].index].source
    write_question(small, sources=[Path(fourth).relative_to(small).as_posix()], answer="the")
    out = screen()
    assert not run_demo(out, tiny, corpus=small, store=tmp_path / "store", quote=False)
    assert "among the first 3 for 1 of 1: failed." in out.export_text()


@pytest.mark.parametrize(("text", "right"), [("aorta", True), ("The heart pumps blood. " * 100, False)])
def test_wrong_quotes_fail_the_demo(tmp_path: Path, tiny: GritLM, text: str, right: bool) -> None:
    """Of one word there is one quote, and it is right; of what is expected below, no two sentences can be half."""
    (tmp_path / "corpus" / "body").mkdir(parents=True)
    (tmp_path / "corpus" / "body" / "heart.md").write_text(text)
    write_question(tmp_path / "corpus", answer=text.strip())
    out = screen()
    assert run_demo(out, tiny, corpus=tmp_path / "corpus", quote=True) == right
    printed = out.export_text()
    verdict = "passed" if right else "failed"
    assert f"The quoted sentences must have the right answer for 1 of 1: {verdict}." in printed
    assert run_demo(screen(), tiny, corpus=tmp_path / "corpus", quote=False)


def test_the_demo_with_grit_mini(mini: GritLM, tmp_path: Path) -> None:
    out = screen()
    assert run_demo(out, mini, store=tmp_path / "store"), out.export_text()
    text = out.export_text()
    assert "grit-mini answers with sentences of the passages" in text
    assert text.count("retrieved and reranked in") == 2 * len(read_questions(CORPUS))
    assert widest_prose(text) <= 100
