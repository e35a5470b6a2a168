"""How the time of reading a file grows with its length, for files that cost a careless reader quadratic time.

    python benchmarks/ingest.py [--size CHARACTERS]

Each shape of `tests/support/hostile_shapes.py` is read, split into passages and cut into sentences at n, 2n, 4n and 8n
characters. Linear work takes 8 times as long for the longest as for the shortest, quadratic work 64 times.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from common import RESULTS, environment, save

from grit_integrations import GritError, GritLM
from grit_integrations.ingest import PassageSplitter, read_file
from grit_integrations.quoting.sentences import sentences

GROWTH = (1, 2, 4, 8)
REPEATS = 3  # the fastest counts


def shapes() -> dict[str, tuple[Path, Callable[[int], str]]]:
    """Return every shape with a file name that says how it is read; prose is what they are compared with."""
    from hostile_shapes import HTML, MARKDOWN, TEXT

    prose = "The heart pumps blood through the body of the animal. "
    found = {"prose": (Path("prose.txt"), lambda n: prose * (n // len(prose)))}
    for name, kinds in (("page.html", HTML), ("notes.md", MARKDOWN), ("text.txt", TEXT)):
        found |= {f"{shape} ({name.split('.')[1]})": (Path(name), make) for shape, make in kinds.items()}
    return found


def ingest(splitter: PassageSplitter, path: Path, text: str) -> None:
    """Do what indexing does with a file before anything is embedded, and cut it into sentences as quoting does."""
    with suppress(GritError):  # some shapes have no text in them
        splitter.split(read_file(path, text.encode()))
    sentences(text)


def seconds(grit: GritLM, path: Path, text: str) -> float:
    """Return the fewest seconds of processor time that a text took."""
    times = []
    for _ in range(REPEATS):
        splitter = PassageSplitter(grit)  # one that has counted nothing yet
        began = time.process_time()
        ingest(splitter, path, text)
        times.append(time.process_time() - began)
    return min(times)


def measure(size: int) -> dict[str, list[float]]:
    """Return the seconds of each shape at each length."""
    found, grit = {}, GritLM("grit-mini")
    for name, (path, make) in shapes().items():
        row = found[name] = [seconds(grit, path, make(size * factor)) for factor in GROWTH]
        print(f"{name:45} " + "  ".join(f"{value:7.4f}" for value in row) + f"   x{ratio(row):.1f}", flush=True)
    return found


def ratio(row: list[float]) -> float:
    """Return how many times as long the longest text took as the shortest."""
    return row[-1] / max(row[0], 1e-6)


def plot(result: dict[str, Any]) -> None:
    """Draw the growth of every shape beside linear and quadratic growth."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.6))
    lengths = [result["characters"] * factor / 1000 for factor in GROWTH]
    for name, row in result["seconds"].items():
        prose = name == "prose"
        axes.loglog(
            lengths, row, color="#2563eb" if prose else "#9ca3af", linewidth=2 if prose else 0.8, zorder=2 + prose
        )
    slowest = max(row[0] for row in result["seconds"].values())
    for power, label in ((1, "linear"), (2, "quadratic")):
        axes.loglog(lengths, [slowest * f**power for f in GROWTH], color="#dc2626", linestyle="--", linewidth=power)
        axes.annotate(label, (lengths[-1], slowest * GROWTH[-1] ** power), fontsize=8, color="#dc2626")
    axes.set_xticks(lengths, [f"{length:.0f}" for length in lengths], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("thousand characters (blue: prose; grey: hostile shapes)")
    axes.set_ylabel("seconds")
    figure.tight_layout()
    figure.savefig(RESULTS / "ingest.png", dpi=150)


def main() -> None:
    """Measure, print, save, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=25_000, help="characters of the shortest text")
    size = parser.parse_args().size
    found = measure(size)
    ratios = {name: round(ratio(row), 2) for name, row in found.items()}
    slow = {name: row for name, row in found.items() if row[-1] >= 0.01}  # below that, a clock's noise
    worst = max(slow, key=lambda name: ratios[name])
    slowest = max(found, key=lambda name: found[name][-1])
    print(f"{len(found)} shapes; largest growth x{ratios[worst]:.1f} ({worst}), 8 is linear, 64 quadratic")
    print(f"slowest: {slowest}, {found[slowest][-1]:.2f} s for {size * GROWTH[-1]:,} characters")
    result = {
        "characters": size,
        "growth": list(GROWTH),
        "seconds": {name: [round(value, 5) for value in row] for name, row in found.items()},
        "ratios": ratios,
        "largest_ratio": {"shape": worst, "ratio": ratios[worst]},
        "slowest": {"shape": slowest, "seconds": round(found[slowest][-1], 3)},
        "environment": environment(),
    }
    save("ingest", result)
    plot(result)


if __name__ == "__main__":
    main()
