"""Embedding throughput against the `gritlm` package's `encode`, same random 230M weights, same texts, one process.

    python benchmarks/embedding.py [--texts 500] [--rounds 2]

Arms run in a new random order each round, so a slow minute of the machine hits them alike; ratios are between medians.
The physical limit beside them is the time that the linear layers alone need for the true tokens at this machine's
measured matrix-product speed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from common import CORPUS, RESULTS, environment, random_230m, save

from grit_integrations import GritLM

Arm = Callable[[], np.ndarray]


def corpus_texts(count: int) -> list[str]:
    """Return `count` paragraphs of the example corpus, picked at random with a fixed seed."""
    files = sorted(CORPUS.rglob("*.md"))
    blocks = [block.strip() for file in files for block in file.read_text(encoding="utf-8").split("\n\n")]
    paragraphs = [block for block in blocks if len(block) > 80 and not block.startswith("#")]
    return random.Random(0).sample(paragraphs, min(count, len(paragraphs)))


def load_reference(checkpoint: Path) -> Any:
    """Load `gritlm.GritLM` from a copy without `auto_map`: the package insists on remote code where it is named."""
    import gritlm

    copy = Path(shutil.copytree(checkpoint, checkpoint.parent / "reference"))
    config = json.loads((copy / "config.json").read_text())
    config.pop("auto_map")
    (copy / "config.json").write_text(json.dumps(config))
    return gritlm.GritLM(str(copy), dtype=torch.float32, sliding_window=None)


def linear_limit(grit: GritLM) -> float:
    """Return tokens per second if only the linear layers took time, at the speed of one large matrix product."""
    hidden, inner, tokens = 1024, 3584, 2048
    a, b = torch.randn(tokens, hidden), torch.randn(hidden, inner)
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    speed = 2 * tokens * hidden * inner / min(seconds)  # operations per second
    weights = sum(p.numel() for n, p in grit.lm.named_parameters() if p.ndim == 2 and "layers" in n)
    return speed / (2 * weights)


def run(texts: list[str], rounds: int, directory: Path) -> dict[str, Any]:
    """Time every arm `rounds` times and return the figures."""
    checkpoint = random_230m(directory)
    grit = GritLM.from_pretrained(checkpoint, dtype="float32", device="cpu")
    reference = load_reference(checkpoint)
    prefix, longest = "<|embed|>\n", 4096
    arms: dict[str, Arm] = {
        "grit_integrations": lambda: grit.embed_documents(texts),
        "gritlm encode, batch_size=256 (its default)": lambda: reference.encode(
            texts, instruction=prefix, max_length=longest
        ),
        "gritlm encode, batch_size=16": lambda: reference.encode(
            texts, instruction=prefix, max_length=longest, batch_size=16
        ),
    }
    tokens = sum(grit.count_tokens(text) for text in texts)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    vectors: dict[str, np.ndarray] = {}
    for turn in range(rounds):
        for name in random.Random(turn).sample(sorted(arms), len(arms)):
            start = time.perf_counter()
            vectors[name] = arms[name]()
            seconds[name].append(time.perf_counter() - start)
            print(f"round {turn + 1}  {name:45s} {seconds[name][-1]:7.1f} s", flush=True)
    ours = vectors["grit_integrations"]
    return {
        "model": "random Mistral, 230M parameters (hidden 1024, 12 layers, 16 heads, 4 kv heads, mlp 3584), float32",
        "texts": len(texts),
        "tokens": tokens,
        "rounds": rounds,
        "seconds": seconds,
        "tokens_per_second": {name: tokens / median(values) for name, values in seconds.items()},
        "speedup": {
            name: median(values) / median(seconds["grit_integrations"])
            for name, values in seconds.items()
            if name != "grit_integrations"
        },
        "largest_difference": {name: float(np.abs(ours - other).max()) for name, other in vectors.items()},
        "limit_tokens_per_second": linear_limit(grit),
        "environment": environment(),
    }


def report(result: dict[str, Any]) -> None:
    """Print the table that docs/benchmarks.md shows."""
    print(f"\n{result['model']}; {result['texts']} texts, {result['tokens']:,} tokens; {result['environment']}")
    print("| arm | tokens/s | times slower | largest difference of a vector's component |")
    print("|---|---|---|---|")
    for name, rate in result["tokens_per_second"].items():
        slower = result["speedup"].get(name, 1.0)
        print(f"| {name} | {rate:,.0f} | {slower:.2f} | {result['largest_difference'][name]:.1e} |")
    print(f"| limit: linear layers alone | {result['limit_tokens_per_second']:,.0f} | | |")


def plot(result: dict[str, Any]) -> None:
    """Draw tokens per second with the spread of the rounds and the limit."""
    import matplotlib.pyplot as plt

    names = list(result["seconds"])
    rates = [[result["tokens"] / s for s in result["seconds"][name]] for name in names]
    middle = [median(values) for values in rates]
    spread = [
        [m - min(v) for m, v in zip(middle, rates, strict=True)],
        [max(v) - m for m, v in zip(middle, rates, strict=True)],
    ]
    figure, axes = plt.subplots(figsize=(8, 2.6))
    axes.barh(
        [name.replace(", ", ",\n") for name in names], middle, xerr=spread, color=["#2563eb", "#9ca3af", "#9ca3af"]
    )
    axes.axvline(result["limit_tokens_per_second"], color="#dc2626", linestyle="--", label="linear layers alone")
    axes.invert_yaxis()
    axes.set_xlabel(f"tokens per second, {result['environment']['threads']} threads, float32 (median, range)")
    axes.legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(RESULTS / "embedding.png", dpi=150)


def main() -> None:
    """Run, print, save, draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        result = run(corpus_texts(options.texts), options.rounds, Path(directory))
    report(result)
    save("embedding", result)
    plot(result)


if __name__ == "__main__":
    main()
