"""The demo: both frameworks over one collection and one set of weights; with grit-mini, the right sources."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from grit_integrations import GritLM, IngestError
from grit_integrations.cli.demo import (
    PASSAGES,
    find_corpus,
    langchain_side,
    llama_index_side,
    read_questions,
    run_demo,
)
from grit_integrations.ingest import Store

CORPUS = Path(__file__).parents[1] / "examples" / "corpus"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A corpus of three files of which each has one passage."""
    corpus = tmp_path / "corpus"
    (corpus / "body").mkdir(parents=True)
    (corpus / "body" / "heart.md").write_text("# Heart\n\nThe heart pumps blood.")
    (corpus / "body" / "lungs.md").write_text("# Lungs\n\nThe lungs take in air.")
    (corpus / "body" / "skin.md").write_text("# Skin\n\nThe skin keeps water out.")
    rows = [{"question": "What pumps blood?", "sources": ["body/heart.md"], "answer": "heart"}]
    (corpus / "questions.json").write_text(json.dumps(rows))
    return corpus


def screen() -> Console:
    return Console(width=100, record=True, file=io.StringIO())


def test_corpus_and_questions() -> None:
    assert find_corpus() == CORPUS
    questions = read_questions(CORPUS)
    assert len(questions) >= 12
    for question in questions:
        assert all(question.answer in (CORPUS / source).read_text() for source in question.sources), question
    assert len({question.sources[0].split("/")[1] for question in questions}) == 5  # every chapter and both manuals
    attribution = (CORPUS / "ATTRIBUTION.md").read_text()
    assert all(folder.name in attribution for folder in CORPUS.iterdir() if folder.is_dir())


def test_no_corpus(tmp_path: Path, tiny: GritLM) -> None:
    with pytest.raises(IngestError, match="cannot be read as questions"):
        run_demo(screen(), tiny, corpus=tmp_path)


def test_both_sides_retrieve_the_same_and_stream(small: Path, tmp_path: Path, tiny: GritLM) -> None:
    store = Store(tmp_path / "store", tiny, create=True)
    store.index([small / "body"])
    wanted = store.search("What pumps blood?", k=PASSAGES)
    for make in (langchain_side, llama_index_side):
        side, models = make(store, max_tokens=6)
        assert all(model is tiny for model in models.values())
        hits, *pieces = side("What pumps blood?")
        assert [hit.document.page_content for hit in hits] == [hit.document.page_content for hit in wanted]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in wanted], abs=1e-4)
        assert [Path(hit.source).name for hit in hits] == [Path(hit.source).name for hit in wanted]
        assert len(pieces) > 1
        assert all(isinstance(piece, str) for piece in pieces)


SENTENCES = ("The heart pumps blood.", "The lungs take in air.", "The skin keeps water out.")


@pytest.mark.parametrize("quote", [True, False])
def test_what_is_printed(small: Path, tmp_path: Path, tiny: GritLM, quote: bool) -> None:
    out = screen()
    assert run_demo(
        out, tiny, corpus=small, store=tmp_path / "store", quote=quote
    )  # 3 passages: always among the first 4
    text = out.export_text()
    assert "Indexed 3 passages of 3 files" in text
    assert text.count("retrieved in") == 2
    assert any(f"“{sentence}”" in text for sentence in SENTENCES) == quote
    assert "✓ body/heart.md" in text
    assert "GritEmbeddings, ChatGrit, GritEmbedding, GritLLM" in text
    assert "passed" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    again = screen()
    assert run_demo(again, tiny, corpus=small, store=tmp_path / "store", quote=quote)
    assert "nothing had changed" in again.export_text()


def test_a_missed_source_fails_the_demo(small: Path, tmp_path: Path, tiny: GritLM) -> None:
    rows = [{"question": "What pumps blood?", "sources": ["body/liver.md"], "answer": "liver"}]
    (small / "questions.json").write_text(json.dumps(rows))
    out = screen()
    assert not run_demo(out, tiny, corpus=small, quote=True)
    assert "failed" in out.export_text()


def test_the_demo_with_grit_mini(mini: GritLM, tmp_path: Path) -> None:
    out = screen()
    assert run_demo(out, mini, store=tmp_path / "store"), out.export_text()
    text = out.export_text()
    assert "too small to write answers" in text
    assert text.count("retrieved in") == 2 * len(read_questions(CORPUS))
