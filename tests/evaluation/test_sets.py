"""Reading held-out sets: what is named, what is there, and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from question_sets import DISTRACTORS, PASSAGES, QUESTIONS, write_rows

from grit_integrations import OptionError
from grit_integrations.errors import DataError
from grit_integrations.evaluation.scope import EvaluationOptions
from grit_integrations.evaluation.sets import open_sets


def test_the_defaults_take_all_but_headings(folder: Path) -> None:
    sets = open_sets(folder, EvaluationOptions())
    assert [found.name for found in sets.retrieval] == ["squad-tiny"]
    assert {kind: len(texts) for kind, texts in sets.texts.items()} == {"squad": len(QUESTIONS), "text": len(PASSAGES)}
    assert set(sets.digests) == {
        "generation/squad-tiny.jsonl",
        "generation/text-tiny.jsonl",
        "retrieval/squad-tiny.jsonl",
    }
    questions = sets.questions[0]
    assert set(questions.passages) == {f"{title} {text}" for title, text in PASSAGES.items()} | set(DISTRACTORS)
    assert len(questions.answerable) == 5
    assert len(questions.unanswerable) == 2
    assert questions.answerable[0].passage == PASSAGES["Mill"]


def test_the_evaluation_folder_itself_will_do(folder: Path) -> None:
    assert open_sets(folder / "evaluation", EvaluationOptions()) == open_sets(folder, EvaluationOptions())


def test_only_what_a_part_needs_is_read(folder: Path) -> None:
    (folder / "evaluation" / "generation" / "squad-tiny.jsonl").write_text("not JSON\n")
    sets = open_sets(folder, EvaluationOptions(parts=("retrieval",), sets=("*tiny",)))
    assert [found.name for found in sets.retrieval] == ["headings-tiny", "squad-tiny"]
    assert sets.questions == ()


def test_bounds_draw_the_same_rows_each_time(folder: Path) -> None:
    options = EvaluationOptions(queries=2, questions=3, rows=1, passages=4)
    sets = open_sets(folder, options)
    assert len(sets.retrieval[0].queries) == 2
    assert len(sets.questions[0].questions) == 3
    assert {question.context for question in sets.questions[0].questions} <= set(sets.questions[0].passages)
    assert len(sets.questions[0].passages) == 4
    assert sets == open_sets(folder, options)
    drawn = [open_sets(folder, EvaluationOptions(questions=3, seed=seed)).questions[0].questions for seed in range(5)]
    assert len(set(drawn)) > 1


def test_a_missing_folder_or_set_names_what_is_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder .*grit_integrations\.training\.prepare\.convert"):
        open_sets(tmp_path / "nothing", EvaluationOptions())
    with pytest.raises(DataError, match=r"neither retrieval/ nor generation/.* it has data"):
        open_sets(tmp_path, EvaluationOptions())
    with pytest.raises(DataError, match=r"has no set quad\. It has headings-tiny, squad-tiny"):
        open_sets(folder, EvaluationOptions(sets=("quad", "squad-*")))
    with pytest.raises(DataError, match=r"has no set nq\*\. It has squad-tiny, text-tiny"):
        open_sets(folder, EvaluationOptions(answer_sets=("nq*",)))


def test_an_empty_set_is_refused(folder: Path) -> None:
    path = folder / "evaluation" / "generation" / "squad-tiny.jsonl"
    path.write_text("\n")
    with pytest.raises(DataError, match=r"squad-tiny\.jsonl has no rows"):
        open_sets(folder, EvaluationOptions())
    (folder / "evaluation" / "retrieval" / "squad-tiny.jsonl").write_text("")
    with pytest.raises(DataError, match=r"squad-tiny\.jsonl has no rows"):
        open_sets(folder, EvaluationOptions(parts=("retrieval",)))


@pytest.mark.parametrize("missing", ["question", "context", "title", "answer"])
def test_a_question_without_its_fields_names_line_and_cure(folder: Path, missing: str) -> None:
    path = folder / "evaluation" / "generation" / "squad-tiny.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    del rows[2][missing]
    write_rows(path, rows)
    with pytest.raises(DataError, match=r"squad-tiny\.jsonl line 3: a question needs .*convert"):
        open_sets(folder, EvaluationOptions())


def test_a_bad_distractor_names_its_line(folder: Path) -> None:
    write_rows(folder / "evaluation" / "retrieval" / "squad-tiny.corpus.jsonl", [{"text": "fine"}, {"txt": "bad"}])
    with pytest.raises(DataError, match=r"corpus\.jsonl line 2: .*text"):
        open_sets(folder, EvaluationOptions())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cachings": ("docs",)}, "'docs' is unknown. Use some of off, prefix"),
        ({"parts": ()}, "parts is empty"),
        ({"parts": ("speed",)}, "'speed' is unknown"),
        ({"quotes": ("words",)}, "'words' is unknown. Use tokens, spans or sentences"),
        ({"quotes": ("spans:0",)}, "'spans:0' is unknown"),
        ({"questions": 0}, "questions=0 is not possible"),
    ],
)
def test_impossible_options_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        EvaluationOptions(**wrong)  # type: ignore[arg-type]


def test_off_is_always_measured() -> None:
    assert EvaluationOptions(cachings=("doc",)).cachings == ("off", "doc")
