"""A run's metrics as a picture: each stream's loss, and what was watched."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SMOOTHED = 50  # points of a curve at which averaging over neighbours starts
OTHER = ("step", "seconds", "gradient")
WATCHED = {"ndcg_10": "nDCG@10", "recall_1": "recall@1", "nats": "nats per held-out token"}

Series = dict[str, tuple[list[int], list[float]]]


def plot_metrics(metrics: Path, picture: Path) -> None:
    """Draw the losses of `metrics.jsonl` over its evaluations into a PNG file."""
    from matplotlib.figure import Figure  # draws without a display, and changes no global state

    steps, evaluations = read_metrics(metrics)
    losses = _series(steps, [name for step in steps for name in step if name not in OTHER])
    watched = _series(evaluations, [name for name in WATCHED if any(name in found for found in evaluations)])
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, (places, values) in losses.items():
        (line,) = left.plot(places, _smooth(values) if len(values) >= SMOOTHED else values, label=name)
        if len(values) >= SMOOTHED:
            left.plot(places, values, alpha=0.25, color=line.get_color())
    lines = []
    for name, (places, values) in watched.items():
        axes, colour = (right.twinx(), "#dc2626") if name == "nats" else (right, None)
        lines += axes.plot(places, values, marker="o", markersize=3, label=WATCHED[name], color=colour)
        axes.set_ylabel(WATCHED[name] if name == "nats" else "share")
    for axes, label in ((left, "loss"), (right, "share")):
        axes.set_xlabel("step")
        axes.set_ylabel(label)
    for axes, handles in ((left, left.get_lines()), (right, lines)):
        named = [line for line in handles if not line.get_label().startswith("_")]
        if named:
            axes.legend(handles=named, fontsize=8, loc="best")
    figure.savefig(picture, dpi=120)


def read_metrics(metrics: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the records of steps and of evaluations."""
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    records = [json.loads(line) for line in lines]
    return [r for r in records if "evaluation" not in r], [r["evaluation"] for r in records if "evaluation" in r]


def _series(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Series:
    found: Series = {}
    for name in dict.fromkeys(names):
        having = [record for record in records if name in record]
        found[name] = [record["step"] for record in having], [record[name] for record in having]
    return found


def _smooth(values: Sequence[float]) -> list[float]:
    reach = len(values) // SMOOTHED + 2
    windows = (values[max(0, at - reach) : at + reach + 1] for at in range(len(values)))
    return [sum(window) / len(window) for window in windows]
