"""Answers through `GritLM`: every arm on the same questions, from the store, equal where that is promised."""

from __future__ import annotations

from dataclasses import replace

import pytest
from question_sets import DISTRACTORS, PASSAGES, QUESTIONS

from grit_integrations import GritLM
from grit_integrations.evaluation.answer_figures import answer_figures, answer_records, answer_tables
from grit_integrations.evaluation.answer_scores import contains
from grit_integrations.evaluation.arms import FREE, WITH_DOCUMENTS, Arm, ArmRunner, all_arms
from grit_integrations.evaluation.refusal import refusal_figures, refusal_table
from grit_integrations.evaluation.report import points
from grit_integrations.evaluation.scope import EvaluationOptions
from grit_integrations.evaluation.sets import HeldOutQuestion, QuestionSet
from grit_integrations.options import CACHINGS


def questions(*, answerable: bool) -> QuestionSet:
    asked = tuple(
        HeldOutQuestion(text, f"{title} {PASSAGES[title]}", title, answer)
        for title, text, answer in QUESTIONS
        if bool(answer) == answerable
    )
    return QuestionSet("tiny", asked, (*(f"{title} {text}" for title, text in PASSAGES.items()), *DISTRACTORS))


def runner(grit: GritLM, *, answerable: bool = True) -> ArmRunner:
    return ArmRunner(grit, questions(answerable=answerable), cachings=CACHINGS)


def test_every_mode_is_compared_and_off_has_every_method() -> None:
    arms = all_arms(EvaluationOptions())
    assert len(set(arms)) == len(arms)
    assert all(arm.reference is None or arm.reference in arms for arm in arms)
    for documents in WITH_DOCUMENTS:
        here = [arm for arm in arms if arm.documents == documents]
        assert {arm.caching for arm in here} == set(CACHINGS)
        assert [arm.method for arm in here if arm.caching == "off"] == [FREE, "tokens", "spans", "spans:1"]
        assert [arm.method for arm in here if arm.precision == "int8"] == [FREE, "tokens"]
    assert [arm for arm in arms if arm.documents == "none"] == [Arm("none")]
    assert not any(arm.precision == "int8" for arm in all_arms(EvaluationOptions(cachings=("off", "query"))))


def test_the_model_is_given_what_it_finds_itself(mini: GritLM) -> None:
    asked = runner(mini)
    for question in asked.found.questions:
        best = asked.documents(question, "top 3")
        assert len(best) == 3
        assert asked.documents(question, "top 1") == best[:1]
        assert question.context in best
        assert asked.documents(question, "gold") == [question.context]
        assert asked.documents(question, "none") == []


def test_stored_documents_are_read_and_prefix_changes_no_answer(tiny: GritLM) -> None:
    """On random weights, whose greedy answers differ from question to question."""
    asked = runner(tiny)
    arms = [arm for arm in all_arms(EvaluationOptions(quotes=())) if arm.documents in ("gold", "top 3")]
    found = answer_figures(asked, arms, seed=0)
    by_arm = {(each["documents"], each["caching"], each["precision"]): each for each in found["arms"]}
    assert all(each["other answers"] == 0 for each in found["arms"] if each["caching"] == "prefix")
    assert len({answer.text for answer in asked.answers(Arm("gold"))}) > 1
    for caching in ("prefix", "doc", "query", "query-doc", "doc-query"):
        each = by_arm["gold", caching, "native"]
        assert each["blocks read"] == each["questions"] * (2 if "-" in caching else 1)
        assert each["blocks computed"] == 0
    assert by_arm["gold", "off", "native"]["blocks read"] == 0
    assert by_arm["top 3", "doc", "int8"]["blocks read"] == 3 * len(asked.found.questions)
    assert by_arm["gold", "doc", "int8"]["against"] == "doc"


def test_a_question_too_long_for_one_mode_is_left_out_of_all(tiny: GritLM) -> None:
    long = HeldOutQuestion("What?", "word " * 5000, "", "word")
    found = replace(questions(answerable=True), questions=(*questions(answerable=True).questions, long))
    asked = ArmRunner(tiny, found, cachings=("off", "doc"))
    figures = answer_figures(asked, all_arms(EvaluationOptions(cachings=("off", "doc"), quotes=())), seed=0)
    assert figures["left out, too long for the window"]["gold"] == 1
    assert {each["questions"] for each in figures["arms"] if each["documents"] == "gold"} == {5}


def test_an_arm_is_answered_once(mini: GritLM) -> None:
    counted: list[int] = []
    asked = ArmRunner(mini, questions(answerable=True), cachings=CACHINGS, advance=counted.append)
    first = asked.answers(Arm("gold"))
    assert sum(counted) == 5
    assert asked.answers(Arm("gold")) is first
    assert sum(counted) == 5


def test_the_callers_model_keeps_its_mode_and_store(mini: GritLM) -> None:
    before = (mini.caching, mini.kv_store)
    runner(mini).answers(Arm("gold", "doc"))
    assert (mini.caching, mini.kv_store) == before


def test_tables_and_records_hold_every_arm(mini: GritLM) -> None:
    asked = runner(mini)
    arms = [Arm("none"), Arm("gold"), Arm("gold", "doc"), Arm("gold", "doc", precision="int8")]
    baselines, table = answer_tables({"tiny": answer_figures(asked, arms, seed=0)})
    assert [row[:3] for row in table.rows] == [
        ("none", "off", "free"),
        ("gold", "off", "free"),
        ("gold", "doc", "free"),
        ("gold", "doc int8", "free"),
    ]
    assert table.rows[2][7].endswith("on off")
    assert table.rows[3][7].endswith("on native")
    assert [row[0] for row in baselines.rows][-1] == "rule by question type"
    assert not baselines.rows[-1][1].startswith("0.0")  # "1790" is a date
    records = list(answer_records("answers", asked, arms))
    assert len(records) == 4 * 5
    assert records[5]["question"] == "When was the mill built?"
    assert records[5]["gold"] == "1790"


def test_an_answer_that_contains_the_gold_one_counts(mini: GritLM) -> None:
    asked, arm = runner(mini), Arm("gold", method="spans")
    found = answer_figures(asked, [arm], seed=0)
    held = [contains(answer.text, answer.question.answer) for answer in asked.answers(arm)]
    assert sum(held) > 0
    assert found["arms"][0]["contains"]["value"] == sum(held) / len(held)
    _, table = answer_tables({"tiny": found})
    assert table.rows[0][table.header.index("contains")] == points(found["arms"][0]["contains"])
    assert [record["contains"] for record in answer_records("answers", asked, [arm])] == held


@pytest.mark.parametrize("method", ["tokens", "spans", "spans:1"])
def test_quotes_stand_in_what_was_given(mini: GritLM, method: str) -> None:
    asked = runner(mini)
    for answer in asked.answers(Arm("top 3", "doc", method)):
        documents = asked.documents(answer.question, "top 3")
        assert answer.quote is not None
        assert documents[answer.quote.document][answer.quote.start : answer.quote.end] == answer.quote.text
        assert answer.text == answer.quote.text.strip()


def test_refusal_is_measured_on_both_kinds(mini: GritLM) -> None:
    sides = [runner(mini)], [runner(mini, answerable=False)]
    figures = refusal_figures(*sides, ("tokens",), seed=0)
    assert (figures["answerable questions"], figures["unanswerable questions"]) == (5, 2)
    assert 0 <= figures["auc"]["tokens"]["low"] <= figures["auc"]["tokens"]["high"] <= 1
    assert 0 <= figures["f1"]["low"] <= figures["f1"]["high"] <= 1
    rows = refusal_table(figures).rows
    assert [row[:2] for row in rows[:3]] == [
        ("unanswerable (2)", "refused, %"),
        ("answerable (5)", "refused, %"),
        ("both (7)", "F1, with refusals"),
    ]
    assert len(rows) == 4
