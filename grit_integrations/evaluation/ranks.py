"""Where the right passages stand among the others, and what that is worth: recall, nDCG, MRR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

CUTOFFS = (1, 5, 10)
DEPTH = 10  # of nDCG and MRR
METRICS = (*(f"recall@{k}" for k in CUTOFFS), f"ndcg@{DEPTH}", f"mrr@{DEPTH}")

Scores = npt.NDArray[np.floating[Any]]
Ranks = npt.NDArray[np.int64]
PerQuery = dict[str, npt.NDArray[np.float64]]  # a metric by its name, (queries,)


@dataclass(frozen=True, slots=True)
class RetrievalScores:
    """Shares in 0..1."""

    recall_1: float
    recall_5: float
    recall_10: float
    ndcg_10: float


def gold_ranks(similarity: Scores, gold: Sequence[Sequence[int]]) -> Ranks:
    """Return how many other passages stand above the best-ranked gold passage of each query, (queries,); 0 is first.

    A tie with another passage counts as below it, so a model that tells nothing apart finds nothing.

    Args:
        similarity: (queries, passages).
        gold: per query, the passages that answer it; finding any one of them is enough.
    """
    return np.array([_rank(row, answers) for row, answers in zip(similarity, gold, strict=True)])


def _rank(row: Scores, answers: Sequence[int]) -> int:
    others = np.delete(row, list(answers))
    return int((others >= row[list(answers)].max()).sum())


def rank_metrics(ranks: Ranks) -> PerQuery:
    """Return each query's metrics from the rank of its best right passage.

    Recall counts a query as found when any one right passage is; nDCG and MRR look at that passage alone. With one
    right passage per query, as in nearly all sets, these are the usual definitions.
    """
    found = {f"recall@{k}": (ranks < k).astype(np.float64) for k in CUTOFFS}
    near = ranks < DEPTH
    found[f"ndcg@{DEPTH}"] = np.where(near, 1 / np.log2(ranks + 2.0), 0.0)
    found[f"mrr@{DEPTH}"] = np.where(near, 1 / (ranks + 1.0), 0.0)
    return found


def rank_scores(similarity: Scores, gold: Sequence[Sequence[int]]) -> RetrievalScores:
    """Return recall and nDCG of the ranks that `gold_ranks` finds, the means over queries."""
    metrics = rank_metrics(gold_ranks(similarity, gold))
    return RetrievalScores(*(float(metrics[name].mean()) for name in METRICS[:4]))
