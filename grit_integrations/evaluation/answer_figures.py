"""Figures of answers: how right each arm is, how it differs from its reference, and the baselines beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from grit_integrations.evaluation.answer_scores import contains, exact_match, token_f1
from grit_integrations.evaluation.arms import WITH_DOCUMENTS, Arm, ArmRunner, ScoredAnswer
from grit_integrations.evaluation.baselines import by_shared_words, passage_sentences, rule_answer
from grit_integrations.evaluation.intervals import difference_interval, mean_interval
from grit_integrations.evaluation.report import Figures, Table, points
from grit_integrations.evaluation.scope import EvaluationPart
from grit_integrations.evaluation.sets import HeldOutQuestion
from grit_integrations.model import GritLM


def answer_figures(runner: ArmRunner, arms: Sequence[Arm], *, seed: int) -> Figures:
    """Return the figures of one set: what was asked, baselines, and every arm that has questions."""
    runner.run(arms)
    asked = runner.found.questions
    left_out = {kind: len(asked) - len(runner.questions(kind)) for kind in WITH_DOCUMENTS}
    return {
        "questions": len(asked),
        "passages": len(runner.found.passages),
        "left out, too long for the window": left_out,
        "gold passage retrieved": _retrieved(runner),
        "baselines": baseline_figures(runner.grit, runner.questions("gold"), seed=seed),
        "arms": [_arm_figures(runner, arm, seed=seed) for arm in arms if runner.answers(arm)],
    }


def _retrieved(runner: ArmRunner) -> Figures:
    """Return how often the gold passage is among those that the model is given."""
    found = runner.found
    places = {
        kind: [question.context in runner.documents(question, kind) for question in found.questions]
        for kind in WITH_DOCUMENTS[1:]
    }
    return {kind: sum(hits) / len(hits) for kind, hits in places.items()}


def _arm_figures(runner: ArmRunner, arm: Arm, *, seed: int) -> Figures:
    answers = runner.answers(arm)
    hits, misses = sum(a.hits for a in answers), sum(a.misses for a in answers)
    figures: Figures = {
        **asdict(arm),
        "questions": len(answers),
        "em": asdict(mean_interval([a.exact for a in answers], seed=seed)),
        "f1": asdict(mean_interval([a.f1 for a in answers], seed=seed)),
        "contains": asdict(mean_interval([a.contains for a in answers], seed=seed)),
        "blocks read": hits,
        "blocks computed": misses,
        "prompt tokens": sum(a.prompt_tokens for a in answers),
        "prompt tokens read": sum(a.read_tokens for a in answers),
        "seconds": round(runner.seconds[arm], 3),
    }
    return figures if arm.reference is None else figures | _compared(runner, arm, arm.reference, seed=seed)


def _compared(runner: ArmRunner, arm: Arm, reference: Arm, *, seed: int) -> Figures:
    mine, theirs = runner.answers(arm), runner.answers(reference)
    return {
        "against": reference.caching,
        "f1 difference": asdict(difference_interval([a.f1 for a in mine], [a.f1 for a in theirs], seed=seed)),
        "em difference": asdict(difference_interval([a.exact for a in mine], [a.exact for a in theirs], seed=seed)),
        "other answers": sum(a.text != b.text for a, b in zip(mine, theirs, strict=True)),
    }


def baseline_figures(grit: GritLM, questions: Sequence[HeldOutQuestion], *, seed: int) -> Figures:
    """Return how right answers are that need no language model, given the gold passage."""
    if not questions:
        return {}
    figures: Figures = {}
    for name, answers in _baselines(grit, questions).items():
        pairs = [(answer, question.answer) for answer, question in zip(answers, questions, strict=True)]
        scored = {"em": exact_match, "f1": token_f1, "contains": contains}
        figures[name] = {
            kind: asdict(mean_interval([score(*pair) for pair in pairs], seed=seed)) for kind, score in scored.items()
        }
    return figures


def _baselines(grit: GritLM, questions: Sequence[HeldOutQuestion]) -> dict[str, list[str]]:
    parts = [passage_sentences(question.passage) for question in questions]
    asked = [question.text for question in questions]
    overlapping = [by_shared_words(text, own) for text, own in zip(asked, parts, strict=True)]
    return {
        "first sentence": [own[0] for own in parts],
        "sentence with most shared words": [own[best] for own, best in zip(parts, overlapping, strict=True)],
        "sentence nearest by embedding": _nearest(grit, asked, parts),
        "rule by question type": [rule_answer(question.text, question.passage) for question in questions],
    }


def _nearest(grit: GritLM, asked: Sequence[str], parts: Sequence[Sequence[str]]) -> list[str]:
    sentences = list(dict.fromkeys(sentence for own in parts for sentence in own))
    vectors = grit.embed_documents(sentences, truncate=True, progress=False)
    rows = dict(zip(sentences, vectors, strict=True))
    queries = grit.embed_queries(list(asked), truncate=True, progress=False)
    return [max(own, key=lambda part: float(rows[part] @ query)) for own, query in zip(parts, queries, strict=True)]


def answer_records(part: EvaluationPart, runner: ArmRunner, arms: Sequence[Arm]) -> Iterator[dict[str, Any]]:
    """Yield what was answered, one record per question and arm."""
    for arm in arms:
        for answer in runner.answers(arm):
            yield {"part": part, "set": runner.found.name, **asdict(arm), **_record(answer)}


def _record(answer: ScoredAnswer) -> dict[str, Any]:
    return {
        "question": answer.question.text,
        "gold": answer.question.answer,
        "answer": answer.text,
        "em": answer.exact,
        "f1": round(answer.f1, 4),
        "contains": answer.contains,
        "quote": None if answer.quote is None else asdict(answer.quote),
        "blocks read": answer.hits,
        "blocks computed": answer.misses,
    }


def answer_tables(figures: Mapping[str, Figures]) -> list[Table]:
    """Lay out each set: the baselines, then the arms."""
    return [
        table for name, found in figures.items() for table in (_baseline_table(name, found), _arm_table(name, found))
    ]


def _baseline_table(name: str, found: Figures) -> Table:
    rows = tuple(
        (system, *(points(scores[kind]) for kind in ("em", "f1", "contains")))
        for system, scores in found["baselines"].items()
    )
    title = f"Without a language model, from the gold passage: {name} ({found['questions']} questions)"
    return Table(title, ("baseline", "EM", "F1", "contains"), rows, labels=1)


def _arm_table(name: str, found: Figures) -> Table:
    scores = ("EM", "F1", "contains", "F1 gained", "other answers")
    header = ("documents", "caching", "method", "n", *scores, "tokens reused")
    rows = tuple(_arm_row(arm) for arm in found["arms"])
    gold = ", ".join(f"{kind} {share:.3f}" for kind, share in found["gold passage retrieved"].items())
    title = f"Answers: {name} (of {found['passages']:,} passages, the gold one is retrieved as {gold})"
    return Table(title, header, rows)


def _arm_row(arm: Figures) -> tuple[str, ...]:
    mode = arm["caching"] + (" int8" if arm["precision"] == "int8" else "")
    compared = "against" in arm
    other = "native" if arm["precision"] == "int8" else arm.get("against")
    return (
        arm["documents"],
        mode,
        arm["method"],
        str(arm["questions"]),
        points(arm["em"]),
        points(arm["f1"]),
        points(arm["contains"]),
        f"{points(arm['f1 difference'], signed=True)} on {other}" if compared else "",
        str(arm["other answers"]) if compared else "",
        f"{100 * arm['prompt tokens read'] / max(1, arm['prompt tokens']):.0f} %",
    )
