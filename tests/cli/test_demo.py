"""The demo: both frameworks over one collection and one set of weights; with grit-mini, the right sources."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from grit_integrations import GritLM, IngestError, Quote, Quoting
from grit_integrations.cli.demo import PASSAGES, find_corpus, langchain_side, llama_index_side, run_demo
from grit_integrations.cli.questions import Question, read_questions
from grit_integrations.cli.quotes import QUOTING
from grit_integrations.ingest import PassageIndex
from grit_integrations.options import CANDIDATES

CORPUS = Path(__file__).parents[2] / "examples" / "corpus"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A corpus of three files of which each has one passage."""
    corpus = tmp_path / "corpus"
    (corpus / "body").mkdir(parents=True)
    (corpus / "body" / "heart.md").write_text("# Heart\n\nThe heart pumps blood.")
    (corpus / "body" / "lungs.md").write_text("# Lungs\n\nThe lungs take in air.")
    (corpus / "body" / "skin.md").write_text("# Skin\n\nThe skin keeps water out.")
    write_question(corpus)
    return corpus


def write_question(corpus: Path, **changes: object) -> None:
    row = {"question": "What pumps blood?", "sources": ["body/heart.md"], "answer": "heart", **changes}
    (corpus / "questions.json").write_text(json.dumps([row]))


def screen() -> Console:
    return Console(width=100, record=True, file=io.StringIO())


def widest_prose(text: str) -> int:
    """Return the width of the longest line that names no path: paths are not broken, whatever their length."""
    return max(len(line.rstrip()) for line in text.splitlines() if not re.search(r"\w/\w", line))


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


def test_no_questions(small: Path) -> None:
    (small / "questions.json").write_text("[]")
    with pytest.raises(IngestError, match="has no questions"):
        read_questions(small)


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("It was GENERAL\nSanta Anna's army.", True),
        ("santa anna", True),
        ("General Santa Anna", True),
        ("Anna", False),  # less than half
        ("", False),
        ("General Houston", False),
    ],
)
def test_what_is_a_right_answer(said: str, right: bool) -> None:
    assert Question("Who?", ("texas.md",), "General Santa Anna").is_answered(said) == right


def test_three_characters_of_an_answer_are_not_enough() -> None:
    assert not Question("How many?", ("a.md",), "1,000").is_answered("000")
    assert Question("What?", ("a.md",), "GPS").is_answered("the GPS")


@pytest.mark.parametrize(
    "quoting", [None, QUOTING, Quoting(method="tokens"), Quoting(method="spans", sentences=1)], ids=str
)
def test_both_sides_retrieve_the_same_and_answer(
    small: Path, tmp_path: Path, tiny: GritLM, quoting: Quoting | None
) -> None:
    store = PassageIndex(tmp_path / "store", tiny, create=True)
    store.index([small / "body"])
    found = store.search("What pumps blood?", k=CANDIDATES)
    ranked = tiny.rerank("What pumps blood?", [hit.document.page_content for hit in found], top_n=PASSAGES)
    wanted = [found[each.index] for each in ranked]
    for make in (langchain_side, llama_index_side):
        side, models = make(store, max_tokens=6, quoting=quoting)
        assert all(model is tiny for model in models.values())
        hits, *pieces = side("What pumps blood?")
        passages = [hit.document.page_content for hit in hits]
        assert passages == [hit.document.page_content for hit in wanted]
        assert [hit.score for hit in hits] == pytest.approx([each.score for each in ranked], abs=1e-5)
        assert [Path(hit.source).name for hit in hits] == [Path(hit.source).name for hit in wanted]
        quotes = [piece for piece in pieces if isinstance(piece, Quote)]
        texts = [piece for piece in pieces if isinstance(piece, str)]
        assert [quote.text for quote in quotes] == ([] if quoting is None else ["".join(texts)])
        assert all(passages[quote.document][quote.start : quote.end] == quote.text for quote in quotes)
        if quoting is None:
            assert len(texts) > 1  # it streams


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
    store = PassageIndex(tmp_path / "store", tiny, create=True)
    store.index([small / "body"])
    found = store.search("What pumps blood?", k=4)
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
