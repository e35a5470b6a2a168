"""Seconds to rerank 10 passages of 500 tokens: from stored blocks, without, behind a shared query, and naively.

    python benchmarks/reranking.py [--tiny] [--rounds 7]

Random 230M Mistral in float32, one process. All arms judge the same passages; each round has a new query and runs the
arms in a new random order, after one round that warms up. The naive arm is stock transformers on the reference's whole
prompts, padded into one batch. What no arm can avoid is printed beside it: the tokens that must be computed, at the
speed at which this machine reads a whole prompt.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import RESULTS, environment, random_230m, save
from embedding import corpus_texts

from grit_integrations import GritLM, KVCacheStore
from grit_integrations.options import Order
from grit_integrations.prompts.plan import plan_prompt
from grit_integrations.reranking.wording import verdict_ids, verdict_parts

PASSAGES, TOKENS = 10, 500
NO_STORE, NAIVE = "passage-first, nothing stored", "naive: transformers, one padded batch"
SHARED = "query-first, the query read once"
IN_RAM, BIDIRECTIONAL, ON_DISK = (
    "passage-first, blocks in RAM",
    "passage-block, blocks in RAM",
    "passage-first, blocks on disk",
)
ORDER_OF: dict[str, Order] = {
    NO_STORE: "passage-first",
    IN_RAM: "passage-first",
    ON_DISK: "passage-first",
    BIDIRECTIONAL: "passage-block",
    SHARED: "query-first",
    NAIVE: "query-first",
}

Arm = Callable[[str], list[float]]


def main() -> None:
    """Run, print, save, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="A model and passages of a toy's size; nothing is saved.")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        result = run(Path(directory), rounds=options.rounds, tiny=options.tiny)
    report(result)
    if not options.tiny:
        save("reranking", result)
        plot(result)


def run(directory: Path, *, rounds: int, tiny: bool) -> dict[str, Any]:
    """Time every arm and return the figures."""
    checkpoint, tokens = (tiny_checkpoint(directory), 60) if tiny else (random_230m(directory), TOKENS)
    bare = GritLM.from_pretrained(checkpoint, dtype="float32", device="cpu", caching="off")
    passages = passages_of(bare, tokens)
    arms = arms_of(checkpoint, directory, bare, passages)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    logits: dict[str, list[float]] = {}
    for turn in range(rounds + 1):
        query = f"What does the text say about number {turn}, and why?"
        for name in random.Random(turn).sample(sorted(arms), len(arms)):
            began = time.perf_counter()
            logits[name] = arms[name](query)
            if turn:
                seconds[name].append(time.perf_counter() - began)
            print(f"round {turn}  {name:<40}{time.perf_counter() - began:8.3f} s", file=sys.stderr, flush=True)
    speed = reading_speed(bare, passages[0])
    return {
        "model": "random Mistral, 230M parameters, float32" if not tiny else "tiny random Mistral",
        "passages": PASSAGES,
        "tokens": tokens,
        "seconds": seconds,
        "limit": {name: computed(bare, name, query, passages) / speed for name in arms},
        "computed": {name: computed(bare, name, query, passages) for name in arms},
        "hit_as_miss": logits[IN_RAM] == logits[ON_DISK] == logits[NO_STORE],
        "shared_to_naive": max(abs(a - b) for a, b in zip(logits[SHARED], logits[NAIVE], strict=True)),
        "environment": environment(),
    }


def tiny_checkpoint(directory: Path) -> Path:
    """Write a model that is measured in milliseconds, to try this script."""
    from checkpoints import write_checkpoint

    return Path(write_checkpoint(directory / "tiny"))


def passages_of(grit: GritLM, tokens: int) -> list[str]:
    """Return different passages of real text, each with so many tokens."""
    text = "\n".join(corpus_texts(500))
    step = len(text) // PASSAGES
    return [grit.checkpoint.tokenizer.first_tokens(text[at * step :], tokens) for at in range(PASSAGES)]


def arms_of(checkpoint: Path, directory: Path, bare: GritLM, passages: Sequence[str]) -> dict[str, Arm]:
    """Return each arm; stores are filled here."""

    def of(grit: GritLM, order: Order) -> Arm:
        def rerank(query: str) -> list[float]:
            found = {each.index: each.score for each in grit.rerank(query, passages, order=order, score="logit")}
            return [found[index] for index in range(len(passages))]

        return rerank

    def stored(store: KVCacheStore, order: Order) -> Arm:
        grit = GritLM.from_pretrained(checkpoint, dtype="float32", device="cpu", kv_store=store)
        grit.rerank("Anything?", passages, order=order)
        store.flush()
        return of(grit, order)

    return {
        NO_STORE: of(bare, "passage-first"),
        IN_RAM: stored(KVCacheStore(None, ram_bytes="2GB"), "passage-first"),
        BIDIRECTIONAL: stored(KVCacheStore(None, ram_bytes="2GB"), "passage-block"),
        ON_DISK: stored(KVCacheStore(directory / "kv", ram_bytes=0), "passage-first"),
        SHARED: of(bare, "query-first"),
        NAIVE: naive(bare, passages),
    }


def naive(grit: GritLM, passages: Sequence[str]) -> Arm:
    """Return what a script with stock transformers does: whole prompts, padded on the left, in one forward pass."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(grit.source, dtype=torch.float32, attn_implementation="sdpa").eval()
    tokenizer = grit.checkpoint.tokenizer
    yes, _ = verdict_ids(tokenizer)

    def rerank(query: str) -> list[float]:
        parts = [verdict_parts(query, passage, order="query-first") for passage in passages]
        prompts = [plan_prompt(each, tokenizer).prompt_ids for each in parts]
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.inference_mode():
            output = model(
                input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1
            )
        return [float(each) for each in output.logits[:, -1, yes]]

    return rerank


def reading_speed(grit: GritLM, passage: str) -> float:
    """Return tokens per second of one whole prompt, the best of five."""
    ids = torch.tensor([grit.tokenize(passage)])
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        with torch.inference_mode():
            grit.lm(input_ids=ids, use_cache=False, logits_to_keep=1)
        seconds.append(time.perf_counter() - began)
    return ids.shape[1] / min(seconds)


def computed(grit: GritLM, name: str, query: str, passages: Sequence[str]) -> int:
    """Return the tokens that an arm cannot avoid computing, without any padding."""
    parts = [verdict_parts(query, passage, order=ORDER_OF[name]) for passage in passages]
    plans = [plan_prompt(each, grit.checkpoint.tokenizer) for each in parts]
    tails = sum(len(plan.suffix) for plan in plans)
    whole = sum(len(plan) for plan in plans)
    if name in (NO_STORE, NAIVE):
        return whole
    return tails + (len(plans[0]) - len(plans[0].suffix) if name == SHARED else 0)


def report(result: dict[str, Any]) -> None:
    """Print the table that the documentation shows."""
    print(f"\n{result['model']}; {result['passages']} passages of {result['tokens']} tokens; {result['environment']}")
    print("| arm | seconds (median) | range | times faster than nothing stored | tokens computed | limit, s |")
    print("|---|---|---|---|---|---|")
    slowest = median(result["seconds"][NO_STORE])
    for name, values in result["seconds"].items():
        middle = median(values)
        row = f"| {name} | {middle:.3f} | {min(values):.3f}..{max(values):.3f} | {slowest / middle:.1f} "
        print(f"{row}| {result['computed'][name]:,} | {result['limit'][name]:.3f} |")
    naive_by_shared = median(result["seconds"][NAIVE]) / median(result["seconds"][SHARED])
    print(f"\nshared query against the naive batch: {naive_by_shared:.2f} times as fast")
    print(f"scores from stored blocks equal those without, to the bit: {result['hit_as_miss']}")
    print(f"largest difference of shared and naive logits: {result['shared_to_naive']:.1e}")
    print(json.dumps({"seconds": {name: round(median(v), 4) for name, v in result["seconds"].items()}}))


def plot(result: dict[str, Any]) -> None:
    """Draw each arm's median with its range, and its limit."""
    import matplotlib.pyplot as plt

    names = list(result["seconds"])
    values = [result["seconds"][name] for name in names]
    middle = [median(each) for each in values]
    spread = [
        [m - min(each) for m, each in zip(middle, values, strict=True)],
        [max(each) - m for m, each in zip(middle, values, strict=True)],
    ]
    figure, axes = plt.subplots(figsize=(8, 3.4))
    axes.barh(names, middle, xerr=spread, color=["#9ca3af" if name == NAIVE else "#2563eb" for name in names])
    limits = [result["limit"][name] for name in names]
    axes.scatter(limits, names, marker="|", s=300, color="#dc2626", zorder=3, label="limit: its tokens alone")
    axes.invert_yaxis()
    axes.set_xlabel(
        f"seconds for {result['passages']} passages of {result['tokens']} tokens, "
        f"{result['environment']['threads']} threads (median, range)"
    )
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(RESULTS / "reranking.png", dpi=150)


if __name__ == "__main__":
    main()
