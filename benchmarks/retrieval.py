"""What reranking gains and costs: nDCG@10, recall, MRR and seconds per query on held-out questions.

    python benchmarks/retrieval.py [--data runs/grit-data] [--model grit-mini] [--queries 300] [--depths 10 50]

For each set BM25 and the model's own embeddings order all passages; then each way of reranking orders the first 10, the
cheaper ones also the first 50, of the embeddings anew. Questions and passages are those that the converter held back
from training. Every arm has the same questions, and a gain is the mean over questions of the difference, with its
paired bootstrap interval. Blocks: the passages' keys and values were kept when they were embedded.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, environment, save
from tqdm import tqdm

from grit_integrations import GritLM, KVCacheStore
from grit_integrations.evaluation.intervals import difference_interval, mean_interval
from grit_integrations.evaluation.ranks import PerQuery, gold_ranks, rank_metrics
from grit_integrations.evaluation.retrieval import bm25_similarity
from grit_integrations.evaluation.retrieval_sets import RetrievalSet, load_retrieval, narrowed

FIGURES = RESULTS / "retrieval.json"
SETS = ("squad-v1.1-dev-part", "selqa", "handwritten")
SHOWN = ("ndcg@10", "mrr@10", "recall@1", "recall@10")


@dataclass(frozen=True)
class Arm:
    """A way to rerank: its name, the options of `GritLM.rerank`, and whether blocks are stored and vectors given.

    `deepest` passages are put in order at most, and more than 10 only in sets of up to `questions`.
    """

    name: str
    options: dict[str, Any]
    stored: bool = False
    deepest: int = 10
    questions: int = 1000

    def is_run(self, depth: int, questions: int) -> bool:
        """Whether the arm is run: what takes seconds a question is not asked hundreds."""
        return depth <= (self.deepest if questions <= self.questions else 10)


COSINE = 15.0  # what the sets that were watched in training like best; others between 10 and 30 differ little
BLOCK = {"order": "passage-block"}
ARMS = (
    Arm("verdicts", BLOCK),
    Arm("verdicts, blocks stored", BLOCK, stored=True, deepest=50),
    Arm(f"verdicts + {COSINE:.0f} x cosine, blocks and vectors stored", {**BLOCK, "cosine": COSINE}, True, 50),
    Arm("verdicts, passage-first", {"order": "passage-first"}),
    Arm("verdicts, query-first", {"order": "query-first"}),
    Arm("listwise", {"method": "listwise", "window": 5, "step": 3, "passage_tokens": 128}, deepest=50, questions=100),
)


def order_of(similarity: np.ndarray) -> np.ndarray:
    """Return the passages of each query, best first, equal ones as they stand."""
    return np.argsort(-similarity, axis=1, kind="stable")


def ranks_of(orders: Sequence[Sequence[int]], found: RetrievalSet) -> np.ndarray:
    """Return the rank of the best right passage of each query, 0 the first."""
    return np.array(
        [min(list(order).index(gold) for gold in golds) for order, golds in zip(orders, found.gold, strict=True)]
    )


def reranked(
    grit: GritLM, found: RetrievalSet, orders: np.ndarray, vectors: np.ndarray, depth: int, options: dict[str, Any]
) -> tuple[list[list[int]], float]:
    """Return the orders with their first `depth` passages put in order anew, and the median seconds of a query."""
    settings = {**options, "instruction": found.instruction} if "cosine" in options else options
    after, seconds = [], []
    for query, order in zip(tqdm(found.queries, desc=f"{found.name} {options}", disable=None), orders, strict=True):
        candidates = [int(index) for index in order[:depth]]
        known = vectors[candidates] if "cosine" in options else None
        began = time.perf_counter()
        texts = [found.passages[index] for index in candidates]
        ranking = grit.rerank(query, texts, passage_vectors=known, progress=False, **settings)
        seconds.append(time.perf_counter() - began)
        after.append([*(candidates[ranked.index] for ranked in ranking), *map(int, order[depth:])])
    return after, float(np.median(seconds))


def figures_of(metrics: PerQuery, own: PerQuery) -> dict[str, Any]:
    """Return the means with their intervals, and the gain in nDCG@10 over the model's own embeddings."""
    return {
        **{name: asdict(mean_interval(metrics[name])) for name in SHOWN},
        "gain": asdict(difference_interval(metrics["ndcg@10"], own["ndcg@10"])),
    }


def run_set(plain: GritLM, keeping: GritLM, found: RetrievalSet, depths: Sequence[int]) -> dict[str, Any]:
    """Return the figures of one set."""
    passages = keeping.embed_documents(list(found.passages), truncate=True, progress=False)
    began = time.perf_counter()
    queries = plain.embed_queries(list(found.queries), instruction=found.instruction, progress=False)
    similarity = queries @ passages.T
    embedding_seconds = (time.perf_counter() - began) / len(found.queries)
    began = time.perf_counter()
    lexical = bm25_similarity(found)
    lexical_seconds = (time.perf_counter() - began) / len(found.queries)
    orders = order_of(similarity)
    own = rank_metrics(ranks_of(orders, found))
    systems: dict[str, Any] = {
        "BM25": {"seconds": lexical_seconds, **figures_of(rank_metrics(gold_ranks(lexical, found.gold)), own)},
        "embeddings": {"seconds": embedding_seconds, **figures_of(own, own)},
    }
    for depth in depths:
        for arm in (arm for arm in ARMS if arm.is_run(depth, len(found.queries))):
            after, seconds = reranked(keeping if arm.stored else plain, found, orders, passages, depth, arm.options)
            metrics = rank_metrics(ranks_of(after, found))
            systems[f"{arm.name}, top {depth}"] = {"seconds": seconds, **figures_of(metrics, own)}
            print(f"{found.name}  {arm.name}, top {depth}: {metrics['ndcg@10'].mean():.3f}", flush=True)
    return {"queries": len(found.queries), "passages": len(found.passages), "systems": systems}


def report(result: dict[str, Any]) -> None:
    """Print the tables that docs/benchmarks.md shows."""
    print(f"\n{result['model']}, {result['precision']}; {result['environment']}")
    for name, figures in result["sets"].items():
        print(f"\n{name}: {figures['queries']} questions, {figures['passages']:,} passages\n")
        print("| | nDCG@10 | gain over the embeddings | MRR@10 | R@1 | R@10 | ms per question |")
        print("|---|---|---|---|---|---|---|")
        for system, row in figures["systems"].items():
            gain = row["gain"]
            shown = (
                "" if system == "embeddings" else f"{gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})"
            )
            middle = " | ".join(f"{row[each]['value']:.3f}" for each in ("mrr@10", "recall@1", "recall@10"))
            print(f"| {system} | {row['ndcg@10']['value']:.3f} | {shown} | {middle} | {row['seconds'] * 1000:,.1f} |")


def plot(result: dict[str, Any]) -> None:
    """Draw nDCG@10 against the time of a question, one panel per set."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(result["sets"]), figsize=(5 * len(result["sets"]), 4), squeeze=False)
    systems = list(dict.fromkeys(name for figures in result["sets"].values() for name in figures["systems"]))
    colours = dict(zip(systems, plt.get_cmap("tab20").colors, strict=False))
    for axes, (name, figures) in zip(panels[0], result["sets"].items(), strict=True):
        for system, row in figures["systems"].items():
            found = row["ndcg@10"]
            error = [[found["value"] - found["low"]], [found["high"] - found["value"]]]
            style = {"fmt": "o", "capsize": 2, "color": colours[system], "label": system}
            axes.errorbar(row["seconds"] * 1000, found["value"], yerr=error, **style)
        axes.set_xscale("log")
        axes.set_xlabel("ms per question")
        axes.set_title(f"{name} ({figures['queries']} questions)", fontsize=9)
    panels[0][0].set_ylabel("nDCG@10, with its 95 % interval")
    drawn = {
        label: handle for axes in panels[0] for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend([drawn[name] for name in systems], systems, loc="lower center", ncol=3, fontsize=7)
    figure.tight_layout(rect=(0, 0.18, 1, 1))
    figure.savefig(RESULTS / "retrieval.png", dpi=150)


def kept(settings: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the last run's figures of all sets but `names`, which are measured now.

    Raises:
        SystemExit: they come from another model, seed or machine, and would be compared with what they are not like.
    """
    last = json.loads(FIGURES.read_text()) if FIGURES.exists() else {"sets": {}}
    others = {name: figures for name, figures in last["sets"].items() if name not in names}
    differ = [key for key, value in settings.items() if others and last[key] != value]
    if differ:
        cure = "Measure all sets (leave out --sets), or move that file away."
        raise SystemExit(f"{FIGURES} has {', '.join(others)} with another {' and '.join(differ)}. {cure}")
    return others


def main() -> None:
    """Run, print, save, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("runs/grit-data"), help="what the converter made")
    parser.add_argument("--model", default="grit-mini")
    parser.add_argument("--sets", nargs="+", default=SETS, help="others keep their last figures, of this machine")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--passages", type=int, default=None)
    parser.add_argument("--depths", type=int, nargs="+", default=(10, 50))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    plain = GritLM.from_pretrained(options.model, caching="off")
    keeping = GritLM.from_pretrained(options.model, caching="doc", kv_store=KVCacheStore(None, ram_bytes="10GB"))
    result: dict[str, Any] = {
        "model": options.model,
        "precision": str(plain.describe()["dtype"]),
        "seed": options.seed,
        "environment": environment(),
    }
    result["sets"] = kept(result, options.sets)
    for name in options.sets:
        whole = load_retrieval(options.data / "evaluation" / "retrieval" / f"{name}.jsonl")
        found = narrowed(whole, queries=options.queries, passages=options.passages, seed=options.seed)
        result["sets"][name] = run_set(plain, keeping, found, options.depths)
    report(result)
    save("retrieval", result)
    plot(result)


if __name__ == "__main__":
    main()
