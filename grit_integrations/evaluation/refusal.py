"""Whether a model notices that a passage does not hold the answer: it says so, or its quote scores low."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from grit_integrations.errors import DataError
from grit_integrations.evaluation.answer_scores import normalise
from grit_integrations.evaluation.arms import Arm, ArmRunner, ScoredAnswer
from grit_integrations.evaluation.intervals import auc_interval, mean_interval
from grit_integrations.evaluation.phrases import NO_ANSWER
from grit_integrations.evaluation.report import Figures, Table, points, share


def refuses(text: str) -> bool:
    """Tell whether an answer begins with the sentence that training data refuses with.

    >>> refuses("The context does not say."), refuses("In 1790.")
    (True, False)
    """
    return normalise(text).startswith(normalise(NO_ANSWER))


def refusal_figures(
    answerable: Sequence[ArmRunner], unanswerable: Sequence[ArmRunner], quotes: Sequence[str], *, seed: int
) -> Figures:
    """Return refusals of free answers and the AUC of quotes' scores, given the gold passage, over all sets together.

    Raises:
        DataError: questions of a kind are all longer than the window.
    """
    sides = {"unanswerable": unanswerable, "answerable": answerable}
    figures: Figures = {}
    for kind, runners in sides.items():
        texts = [answer.text for answer in _answers(runners, Arm("gold"))]
        if not texts:
            raise DataError(f"No {kind} question fits into the model's window. Leave out the part refusal.")
        figures[f"{kind} questions"] = len(texts)
        figures[f"refused, {kind}"] = asdict(mean_interval([float(refuses(text)) for text in texts], seed=seed))
    figures["auc"] = {method: _auc(answerable, unanswerable, method, seed=seed) for method in quotes}
    return figures


def _auc(
    answerable: Sequence[ArmRunner], unanswerable: Sequence[ArmRunner], method: str, *, seed: int
) -> dict[str, float]:
    arm = Arm("gold", method=method)
    scores = [[answer.quote_score for answer in _answers(side, arm)] for side in (answerable, unanswerable)]
    return asdict(auc_interval(scores[0], scores[1], seed=seed))


def _answers(runners: Sequence[ArmRunner], arm: Arm) -> list[ScoredAnswer]:
    return [answer for runner in runners for answer in runner.answers(arm)]


def refusal_table(figures: Figures) -> Table:
    """Lay out refusals and the AUC."""
    counts = {kind: figures[f"{kind} questions"] for kind in ("unanswerable", "answerable")}
    rows = [(f"{kind} ({n})", "refused, %", points(figures[f"refused, {kind}"])) for kind, n in counts.items()]
    rows += [
        ("one of each", f"AUC of the quote's score, {m}", share(auc, interval=True))
        for m, auc in figures["auc"].items()
    ]
    return Table(
        "Refusal, given the passage that was asked about", ("questions", "figure", "value"), tuple(rows), labels=2
    )
