"""Throughput of the trainer against a bare forward-backward loop over the same batches, in one process.

    python benchmarks/training.py [--hidden 512] [--layers 4] [--tokens 4000] [--steps 10] [--rounds 3] [--device auto]

The bare loop has its batches tokenised beforehand and does nothing but compute both losses and their gradients. The
trainer's step reads and tokenises rows, computes the same, clips, takes the optimiser step and writes its record. Arms
run in a new random order each round; each round has other batches, the same for both arms.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import CORPUS, RESULTS, environment, save

from grit_integrations.training.config import DataConfig, ModelConfig, TrainConfig
from grit_integrations.training.trainer import Run

TARGET = 0.6  # of the bare loop's throughput


def write_rows(folder: Path) -> None:
    """Write the corpus' paragraphs as rows of both streams: the first words of a paragraph should find it."""
    files = sorted(CORPUS.rglob("*.md"))
    blocks = [block.strip() for file in files for block in file.read_text(encoding="utf-8").split("\n\n")]
    paragraphs = [block for block in blocks if len(block) > 200 and not block.startswith("#")]
    for stream in ("embedding", "generative"):
        (folder / stream).mkdir(parents=True)
    pairs = [{"query": " ".join(text.split()[:8]), "pos": [text]} for text in paragraphs]
    _dump(folder / "embedding" / "paragraphs.jsonl", pairs)
    _dump(folder / "generative" / "paragraphs.jsonl", [{"text": text} for text in paragraphs])


def _dump(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_run(folder: Path, options: argparse.Namespace) -> Run:
    """Return a run over the rows in `folder`, at its beginning."""
    heads = max(1, options.hidden // 64)
    model = ModelConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        layers=options.layers,
        heads=heads,
        kv_heads=heads,
        mlp_size=2 * options.hidden,
        start="random",
    )
    return Run(
        TrainConfig(
            output=str(folder / "run"),
            data=DataConfig(data=str(folder)),
            model=model,
            device=options.device,
            steps=10**6,
            embedding_tokens=options.tokens,
            generative_tokens=options.tokens,
        )
    )


def draw(run: Run, steps: int) -> list[list[Any]]:
    """Return the batches of the next steps, and put the streams back."""
    places = [objective.position for objective in run.objectives]
    batches = [[objective.next_batch() for objective in run.objectives] for _ in range(steps)]
    for objective, place in zip(run.objectives, places, strict=True):
        objective.seek(place)
    return batches


def tokens_of(batches: list[list[Any]]) -> int:
    """Return how many tokens, padding not counted, the batches have."""
    total = 0
    for embedding, generative in batches:
        sides = (embedding.queries, embedding.passages, generative.batch)
        total += sum(int(side.attended.sum()) for side in sides)
    return total


def bare(run: Run, batches: list[list[Any]]) -> None:
    """Compute the losses and gradients of batches, and nothing else."""
    for step in batches:
        for objective, batch in zip(run.objectives, step, strict=True):
            objective.loss(run.module, batch).value.backward()
        run.module.zero_grad(set_to_none=True)


def trainer(run: Run, batches: list[list[Any]]) -> None:
    """Take as many of the trainer's steps."""
    for _ in batches:
        run._log(run.step())


def measure(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """Time both arms in every round and return the figures."""
    arms = {"bare forward-backward": bare, "grit train": trainer}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    tokens: list[int] = []
    trainer(run, draw(run, 2))  # memory, kernels, optimiser state
    for turn in range(options.rounds):
        batches = draw(run, options.steps)
        tokens.append(tokens_of(batches))
        for name in random.Random(turn).sample(sorted(arms), len(arms)):
            seconds[name].append(timed(arms[name], run, batches))
            print(f"round {turn + 1}  {name:22s} {tokens[-1] / seconds[name][-1]:9,.0f} tokens/s", flush=True)
    rates = {name: [count / spent for count, spent in zip(tokens, each, strict=True)] for name, each in seconds.items()}
    middle = {name: median(each) for name, each in rates.items()}
    return {
        "model": f"{run.model.num_parameters() / 1e6:.1f}M parameters, {options.hidden} wide, {options.layers} layers",
        "dtype": str(run.module.dtype),
        "device": str(run.module.device),
        "steps": options.steps,
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": rates,
        "share": middle["grit train"] / middle["bare forward-backward"],
        "target": TARGET,
        "environment": environment(),
    }


def timed(arm: Callable[[Run, list[list[Any]]], None], run: Run, batches: list[list[Any]]) -> float:
    """Return the seconds that an arm takes."""
    synchronise(run)
    start = time.perf_counter()
    arm(run, batches)
    synchronise(run)
    return time.perf_counter() - start


def synchronise(run: Run) -> None:
    """Wait for the device."""
    if run.module.device.type == "cuda":
        torch.cuda.synchronize()


def plot(result: dict[str, Any]) -> None:
    """Draw tokens per second with the spread of the rounds, and the target."""
    import matplotlib.pyplot as plt

    names = list(result["tokens_per_second"])
    rates = [result["tokens_per_second"][name] for name in names]
    middle = [median(values) for values in rates]
    spread = [
        [m - min(v) for m, v in zip(middle, rates, strict=True)],
        [max(v) - m for m, v in zip(middle, rates, strict=True)],
    ]
    figure, axes = plt.subplots(figsize=(8, 1.9))
    axes.barh(names, middle, xerr=spread, color=["#9ca3af", "#2563eb"])
    axes.axvline(TARGET * middle[0], color="#dc2626", linestyle="--", label=f"{TARGET:.0%} of the bare loop")
    axes.invert_yaxis()
    axes.set_xlabel(f"tokens per second, {result['model']}, {result['dtype'].removeprefix('torch.')} (median, range)")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(RESULTS / "training.png", dpi=150)


def main() -> None:
    """Measure, print, save, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--tokens", type=int, default=4000, help="padded tokens of each stream's batch")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder))
        result = measure(make_run(Path(folder), options), options)
    print(f"\n{result['model']}, {result['dtype']}, {result['device']}; {result['environment']}")
    print(f"The trainer reaches {result['share']:.0%} of the bare loop (wanted: {TARGET:.0%}).")
    save("training", result)
    plot(result)


if __name__ == "__main__":
    main()
