"""Whether a model notices that a passage does not hold the answer: it says so, or its quote scores low."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from grit_integrations.errors import DataError
from grit_integrations.evaluation.answer_scores import normalise, token_f1
from grit_integrations.evaluation.arms import Arm, ArmRunner, ScoredAnswer
from grit_integrations.evaluation.intervals import auc_interval, mean_interval
from grit_integrations.evaluation.report import Figures, Table, points, share

# All of these are matched with normalised text: no case, ASCII punctuation or articles; "doesn't" is "doesnt" there.
_TEXT = r"(?:context|passage|text|document|article|excerpt|paragraph|source)s?|information"
_SOURCE = rf"(?:(?:given|provided|above|this|these|your) )*(?:{_TEXT})(?: (?:given|provided|above))?"
_NOT = r"(?:does not|doesnt|do not|dont|did not|didnt)"
_CANNOT = r"(?:cannot|cant|can not|could not|couldnt|am unable to|am not able to)"
_HOW = r"(?:explicitly |directly |specifically |clearly |actually )?"
_SAY = r"(?:say|state|mention|specify|tell|answer|provide|give|contain|include|indicate|have|hold)"
_SAID = r"(?:said|stated|mentioned|specified|told|answered|provided|given|contained|included|indicated)"
_LEAD = rf"(?:(?:im sorry|i am sorry|sorry|unfortunately|but|answer is|(?:based on|according to) (?:{_SOURCE})) )*"
_REFUSALS = (
    rf"(?:{_SOURCE}) {_NOT} {_HOW}{_SAY}\b",
    rf"it {_NOT} {_HOW}(?:say|state|mention|specify)\b",
    rf"(?:none|neither) of (?:{_SOURCE}) {_HOW}{_SAY}s?\b",
    rf"i (?:{_NOT} know|{_CANNOT} (?:answer|find|determine|say|tell))\b",
    rf"i {_NOT} have (?:enough|sufficient|any) (?:\w+ )?information\b",
    r"(?:(?:there is|theres) )?(?:no|not enough|insufficient) (?:\w+ )?(?:information|mention|answer)\b",
    rf"(?:(?:it|this|that|question|answer) )+{_CANNOT} be (?:answered|determined|found)\b",
    rf"(?:(?:it|this|that) is )?not {_HOW}{_SAID}\b",
    rf"(?:\w+ ){{1,12}}(?:is|was|are|were) not {_HOW}{_SAID} (?:in|by) (?:{_SOURCE})\b",
    r"(?:unknown|unanswerable|na)$",
)
_REFUSAL = re.compile(rf"{_LEAD}(?:{'|'.join(_REFUSALS)})")


def refuses(text: str) -> bool:
    """Tell whether an answer says that there is none: blank, as training data says it, or in other usual words.

    It has to begin with that. What answers first and then says what else is not known is an answer.

    >>> refuses("The context does not say."), refuses("I don't know."), refuses("In 1790.")
    (True, True, False)
    """
    return not text.strip() or _REFUSAL.match(normalise(text.replace("’", "'"))) is not None


def no_answer_f1(text: str, gold: str) -> float:
    """Return SQuAD 2.0's F1, in 0..1: a refusal is right where `gold` is blank, and worth nothing elsewhere.

    >>> no_answer_f1("I don't know.", ""), no_answer_f1("1790", ""), no_answer_f1("in 1790", "1790")
    (1.0, 0.0, 0.6666666666666666)
    """
    if refuses(text) or not gold:
        return float(refuses(text) and not gold)
    return token_f1(text, gold)


def refusal_shares(answers: Mapping[str, Sequence[tuple[str, str]]], *, seed: int) -> Figures:
    """Return how often each kind of question is refused, and SQuAD 2.0's F1 of all of them together.

    Args:
        answers: by kind of question, what was answered and the gold answer, which is blank if there is none.
        seed: of the resamples.
    """
    figures: Figures = {}
    for kind, pairs in answers.items():
        figures[f"{kind} questions"] = len(pairs)
        refused = [float(refuses(text)) for text, _ in pairs]
        figures[f"refused, {kind}"] = asdict(mean_interval(refused, seed=seed))
    scores = [no_answer_f1(*pair) for pairs in answers.values() for pair in pairs]
    return {**figures, "f1": asdict(mean_interval(scores, seed=seed))}


def refusal_figures(
    answerable: Sequence[ArmRunner], unanswerable: Sequence[ArmRunner], quotes: Sequence[str], *, seed: int
) -> Figures:
    """Return refusals of free answers and the AUC of quotes' scores, given the gold passage, over all sets together.

    Raises:
        DataError: questions of a kind are all longer than the window.
    """
    answers = {
        kind: [(answer.text, answer.question.answer) for answer in _answers(runners, Arm("gold"))]
        for kind, runners in (("unanswerable", unanswerable), ("answerable", answerable))
    }
    for kind, pairs in answers.items():
        if not pairs:
            raise DataError(f"No {kind} question fits into the model's window. Leave out the part refusal.")
    auc = {method: _auc(answerable, unanswerable, method, seed=seed) for method in quotes}
    return {**refusal_shares(answers, seed=seed), "auc": auc}


def _auc(
    answerable: Sequence[ArmRunner], unanswerable: Sequence[ArmRunner], method: str, *, seed: int
) -> dict[str, float]:
    arm = Arm("gold", method=method)
    scores = [[answer.quote_score for answer in _answers(side, arm)] for side in (answerable, unanswerable)]
    return asdict(auc_interval(scores[0], scores[1], seed=seed))


def _answers(runners: Sequence[ArmRunner], arm: Arm) -> list[ScoredAnswer]:
    return [answer for runner in runners for answer in runner.answers(arm)]


def refusal_table(figures: Figures) -> Table:
    """Lay out refusals, F1 and the AUC."""
    counts = {kind: figures[f"{kind} questions"] for kind in ("unanswerable", "answerable")}
    rows = [(f"{kind} ({n})", "refused, %", points(figures[f"refused, {kind}"])) for kind, n in counts.items()]
    rows.append((f"both ({sum(counts.values())})", "F1, with refusals", points(figures["f1"])))
    rows += [
        ("one of each", f"AUC of the quote's score, {m}", share(auc, interval=True))
        for m, auc in figures["auc"].items()
    ]
    return Table(
        "Refusal, given the passage that was asked about", ("questions", "figure", "value"), tuple(rows), labels=2
    )
