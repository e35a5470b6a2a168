"""Scores to an order."""

from __future__ import annotations

from collections.abc import Sequence

from grit_integrations.results import Ranked


def in_order(scores: Sequence[float], *, top_n: int | None = None) -> list[Ranked]:
    """Return the places of `scores`, the best first, equal ones as they were; the first `top_n` of them.

    >>> in_order([0.1, 0.9, 0.1], top_n=2)
    [Ranked(index=1, score=0.9), Ranked(index=0, score=0.1)]
    """
    places = sorted(range(len(scores)), key=lambda index: -scores[index])
    return [Ranked(index, scores[index]) for index in places[:top_n]]
