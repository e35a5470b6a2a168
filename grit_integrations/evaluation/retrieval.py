"""How well a model finds passages, beside BM25 and a random order, on the same queries and passages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from grit_integrations.errors import MissingExtraError
from grit_integrations.evaluation.intervals import mean_interval, ratio_interval
from grit_integrations.evaluation.ranks import (
    CUTOFFS,
    DEPTH,
    METRICS,
    PerQuery,
    Ranks,
    Scores,
    gold_ranks,
    rank_metrics,
)
from grit_integrations.evaluation.report import Table, share
from grit_integrations.evaluation.retrieval_sets import RetrievalSet

if TYPE_CHECKING:
    from grit_integrations.model import GritLM

BM25 = {"k1": 1.2, "b": 0.75}  # Lucene's

_WORD = re.compile(r"\w+")
_AT_ONCE = 512  # texts between two moves of the progress bar
Advance = Callable[[int], Any]


@dataclass(frozen=True, slots=True)
class SystemRanking:
    """How one system ranks a set.

    Attributes:
        system: its name.
        metrics: per query.
        ranks: of the best-ranked right passage of each query, 0 the first; `None` for an average over orders.
    """

    system: str
    metrics: PerQuery
    ranks: Ranks | None = None


def model_rankings(grit: GritLM, found: RetrievalSet, *, advance: Advance = lambda count: None) -> list[SystemRanking]:
    """Rank with the model's own vectors, queries without and with the set's instruction; passages are embedded once."""
    passages = embed_passages(grit, found.passages, advance=advance)
    rankings = []
    for name, instruction in (("model", ""), ("model, instructed", found.instruction)):
        queries = grit.embed_queries(list(found.queries), instruction=instruction, truncate=True, progress=False)
        advance(len(found.queries))
        ranks = gold_ranks(queries @ passages.T, found.gold)
        rankings.append(SystemRanking(name, rank_metrics(ranks), ranks))
    return rankings


def embed_passages(
    grit: GritLM, passages: Sequence[str], *, advance: Advance = lambda count: None
) -> npt.NDArray[np.float32]:
    """Return the passages' vectors, (passages, dim); what is longer than the window is cut."""
    parts = []
    for start in range(0, len(passages), _AT_ONCE):
        texts = list(passages[start : start + _AT_ONCE])
        parts.append(grit.embed_documents(texts, truncate=True, progress=False))
        advance(len(texts))
    return np.concatenate(parts)


def bm25_ranking(found: RetrievalSet) -> SystemRanking:
    """Rank with Okapi BM25 over lower-cased words: no stemming, no stop words.

    From rank_bm25: BM25+ with delta 0, which is BM25 with an idf of log((N + 1) / df). Its `BM25Okapi` replaces the
    negative idf of frequent words by a positive one and finds slightly less.

    Raises:
        MissingExtraError: rank_bm25 is not installed.
    """
    ranks = gold_ranks(bm25_similarity(found), found.gold)
    return SystemRanking("BM25", rank_metrics(ranks), ranks)


def bm25_similarity(found: RetrievalSet) -> Scores:
    """Return the BM25 score of every passage for every query, (queries, passages)."""
    try:
        from rank_bm25 import BM25Plus
    except ImportError as error:
        raise MissingExtraError("rank_bm25", "evaluate") from error
    index = BM25Plus([_words(passage) for passage in found.passages], delta=0, **BM25)
    return np.stack([index.get_scores(_words(query)) for query in found.queries])


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def random_ranking(found: RetrievalSet) -> SystemRanking:
    """Return what a random order scores on average, exactly.

    With g right ones among N passages the best is on rank r or behind with probability C(N - r, g) / C(N, g).
    """
    count = len(found.passages)
    return SystemRanking("random order", _stacked([_random_metrics(count, len(gold)) for gold in found.gold]))


def _random_metrics(count: int, right: int) -> dict[str, float]:
    depth = min(DEPTH, count)
    behind = [1.0]  # behind[r]: the chance that none of the first r passages is right
    for rank in range(depth):
        behind.append(behind[-1] * max(0, count - right - rank) / (count - rank))
    here = -np.diff(behind)  # the chance that the best is on rank r, (depth,)
    places = np.arange(depth)
    found = {f"recall@{k}": 1 - behind[min(k, depth)] for k in CUTOFFS}
    found[f"ndcg@{DEPTH}"] = float((here / np.log2(places + 2)).sum())
    found[f"mrr@{DEPTH}"] = float((here / (places + 1)).sum())
    return found


def _stacked(rows: Sequence[dict[str, float]]) -> PerQuery:
    return {metric: np.array([row[metric] for row in rows]) for metric in METRICS}


def set_figures(found: RetrievalSet, rankings: Sequence[SystemRanking], *, seed: int) -> dict[str, Any]:
    """Return a set's figures, each system's metrics with intervals, and recall@10 of each model against BM25."""
    by_name = {ranking.system: ranking.metrics for ranking in rankings}
    wanted = f"recall@{DEPTH}"
    ratios = {
        name: ratio_interval(metrics[wanted], by_name["BM25"][wanted], seed=seed)
        for name, metrics in by_name.items()
        if name.startswith("model")
    }
    return {
        "queries": len(found.queries),
        "passages": len(found.passages),
        "systems": {
            name: {metric: asdict(mean_interval(values, seed=seed)) for metric, values in metrics.items()}
            for name, metrics in by_name.items()
        },
        f"{wanted} against BM25": {name: None if ratio is None else asdict(ratio) for name, ratio in ratios.items()},
    }


def ranking_records(found: RetrievalSet, rankings: Sequence[SystemRanking]) -> Iterator[dict[str, Any]]:
    """Yield each query's rank in each system, 1 the first, one record per query."""
    for row, query in enumerate(found.queries):
        ranks = {ranking.system: int(ranking.ranks[row]) + 1 for ranking in rankings if ranking.ranks is not None}
        yield {"part": "retrieval", "set": found.name, "query": query, "ranks": ranks}


def retrieval_table(figures: dict[str, dict[str, Any]]) -> Table:
    """Lay out the figures of all sets."""
    rows = []
    for name, found in figures.items():
        against = found[f"recall@{DEPTH} against BM25"]
        for system, metrics in found["systems"].items():
            cells = [share(metrics[metric], interval=metric in METRICS[2:4]) for metric in METRICS]
            ratio = "" if against.get(system) is None else share(against[system], interval=True)
            rows.append((f"{name} ({found['queries']})", f"{found['passages']:,}", system, *cells, ratio))
    header = ("set (queries)", "passages", "system", "R@1", "R@5", "R@10", "nDCG@10", "MRR@10", "R@10 / BM25's")
    return Table("Retrieval on held-out sources", header, tuple(rows))
