"""Time to first token and to the whole answer, with and without KV caching, beside other libraries and the limits.

    python benchmarks/caching.py [--quick]

Random 230M Mistral in float32. Every arm is a process of its own; arms run in shuffled order on the same prompts, with
2 warm-ups and 7 repeats; medians and quartiles are reported. A "document" has real text of the corpus. The question's
tokens come on top of the prompt's own words. What a cache cannot avoid is printed beside it: reading the
question behind keys and values that are in RAM already, and copying the bytes from the page cache.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caching_arms import OURS
from common import RESULTS, environment, random_230m, save

DOCUMENTS = (100, 500, 1000, 4000)
PEERS = ("transformers", "transformers, deep-copied prefix cache", "KVBoost float32")
SLOW = "KVBoost float16 (its default)"  # several seconds an answer: one size only
LONG_ANSWERS = ("off", "prefix, hit on disk", *PEERS[:2])

Row = dict[str, Any]


def main() -> None:
    """Run every arm, print the tables, write JSON and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="Only 100 and 500 tokens and short answers.")
    quick = parser.parse_args().quick
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as directory:
        checkpoint = random_230m(Path(directory))
        arms = ["limit", "index", "answers", *OURS, *PEERS, *([] if quick else [SLOW])]
        random.Random(0).shuffle(arms)
        for arm in arms:
            print(f"... {arm}", file=sys.stderr)
            rows += run_arm(arm, checkpoint, Path(directory), cells_of(arm, quick=quick))
    result = {"environment": environment(), "rows": [summary(row) for row in rows]}
    if not quick:
        save("caching", result)
        plot(result["rows"])
    print_tables(result["rows"])


def cells_of(arm: str, *, quick: bool) -> list[Row]:
    """Return the sizes that an arm is run on: all of them where a hit is measured, fewer where nothing is reused."""
    documents = DOCUMENTS[:2] if quick else DOCUMENTS
    if arm == SLOW:
        return [cell(500, 32, 16)]
    if "5 documents" in arm:
        return [cell(size, 32, 16) for size in documents if size >= 500]
    cells = [cell(size, 32, 16) for size in documents]
    if arm not in ("prefix, miss", "query, hit in RAM", "transformers"):
        cells += [cell(size, 1, 16) for size in documents if size in (500, 4000)]
    if arm in LONG_ANSWERS and not quick:
        cells.append(cell(4000, 32, 128))
    return cells


def cell(document: int, question: int, new: int) -> Row:
    """Return one size of the grid."""
    return {"document": document, "question": question, "new": new}


def run_arm(arm: str, checkpoint: Path, directory: Path, cells: Sequence[Row]) -> list[Row]:
    """Run one arm in a process of its own."""
    with tempfile.TemporaryDirectory(dir=directory) as work:
        command = [sys.executable, str(Path(__file__).parent / "caching_arms.py")]
        output = subprocess.run(
            [*command, arm, str(checkpoint), work, json.dumps(cells)], check=True, stdout=subprocess.PIPE, text=True
        )
    rows: list[Row] = json.loads(output.stdout.splitlines()[-1])
    return rows


def summary(row: Row) -> Row:
    """Replace repeated measurements by median and quartiles."""
    return {name: spread(value) if isinstance(value, list) else value for name, value in row.items()}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, lower and upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return {"median": middle, "low": low, "high": high, "mean": statistics.fmean(values)}


def find(rows: Sequence[Row], arm: str, **sizes: int) -> Row | None:
    """Return an arm's row of one size."""
    for row in rows:
        if row["arm"] == arm and all(row.get(name) == value for name, value in sizes.items()):
            return row
    return None


def print_tables(rows: Sequence[Row]) -> None:
    """Print one table a size, then what indexing costs."""
    for document, question, new in sorted({(r["document"], r["question"], r["new"]) for r in rows if "ttft" in r}):
        sizes = {"document": document, "question": question, "new": new}
        print(f"\ndocument {document:,} tokens, question {question}, answer {new}")
        off = find(rows, "off", **sizes)
        print(f"  {'arm':<42}{'first token s':>16}{'x off':>8}{'answer s':>12}{'x off':>8}{'reused':>8}")
        for arm in (*OURS, *PEERS, SLOW):
            row = find(rows, arm, **sizes)
            if row is not None and off is not None:
                print(f"  {arm:<42}{line_of(row, off)}")
        limit = find(rows, "limit", document=document, question=question)
        if limit is not None:
            compute, read = limit["compute"]["median"], limit["read"]["median"]
            print(f"  {'limit: question behind KV in RAM + bytes':<42}{compute:>9.3f} + {read:.3f}")
    print(f"\n{'grit-mini, answers':<24}{'nats/token':>12}{'same as off':>14}{'hit = miss':>12}")
    for row in (r for r in rows if r["arm"] == "answers"):
        name, count = f"{row['mode']}, {row['precision']}", row["questions"]
        same, hits = f"{row['as_off']} of {count}", f"{row['hit_as_miss']} of {count}"
        print(f"{name:<24}{row['nats']['mean']:>12.2f}{same:>14}{hits:>12}")
    print(f"\n{'indexing':<24}{'document':>10}{'seconds':>10}{'bytes':>14}{'bytes/token':>12}")
    for row in sorted((r for r in rows if r["arm"] == "index"), key=lambda r: (r["document"], r["bytes"])):
        name = f"{row['mode']}, {row['precision']}"
        each = row["bytes"] / row["document"]
        print(f"{name:<24}{row['document']:>10,}{row['seconds']['median']:>10.2f}{row['bytes']:>14,}{each:>12,.0f}")


def line_of(row: Row, off: Row) -> str:
    """Return the figures of one row beside those without caching."""
    ttft, total = row["ttft"], row["total"]["median"]
    range_of = f"{ttft['median']:.3f} ±{(ttft['high'] - ttft['low']) / 2:.3f}"
    faster, whole = off["ttft"]["median"] / ttft["median"], off["total"]["median"] / total
    reused = f"{row['reused']:.0%}" if "reused" in row else ""
    return f"{range_of:>16}{faster:>8.1f}{total:>12.3f}{whole:>8.1f}{reused:>8}"


def plot(rows: Sequence[Row]) -> None:
    """Draw the time to the first token against the document's length, one line an arm."""
    import matplotlib.pyplot as plt

    shown = (
        "off",
        "transformers",
        "KVBoost float32",
        "transformers, deep-copied prefix cache",
        "prefix, hit on disk, page cache dropped",
        "prefix, hit on disk",
        "prefix int8, hit on disk",
        "doc, hit on disk",
    )
    figure, axes = plt.subplots(figsize=(8, 5))
    for arm in shown:
        found = [row for size in DOCUMENTS if (row := find(rows, arm, document=size, question=32, new=16))]
        style = "-" if arm in OURS else "--"
        axes.plot([r["document"] for r in found], [r["ttft"]["median"] for r in found], style, marker="o", label=arm)
    limits = [row for size in DOCUMENTS if (row := find(rows, "limit", document=size, question=32))]
    bound = [row["compute"]["median"] + row["read"]["median"] for row in limits]
    axes.plot([row["document"] for row in limits], bound, "k:", label="limit")
    axes.set(xscale="log", yscale="log", xlabel="tokens of the document", ylabel="seconds to the first token")
    axes.set_xticks(DOCUMENTS, [f"{size:,}" for size in DOCUMENTS])
    axes.set_title("A question of 32 tokens about one document; random 230M Mistral, float32, 2 threads")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(RESULTS / "caching.png", dpi=120)


if __name__ == "__main__":
    main()
