"""Figures for people and for programs: tables in Markdown, one JSON file, and one line per question."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grit_integrations.model import GritLM

FORMAT = 1  # of the JSON file
Figures = dict[str, Any]  # of a part or of a set in it: shares in 0..1, with their intervals
_PACKAGES = ("grit_integrations", "torch", "transformers", "tokenizers", "numpy", "rank-bm25")


@dataclass(frozen=True, slots=True)
class Table:
    """A titled table of texts; the columns behind the first `labels` hold numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int = 3

    def markdown(self) -> str:
        """Return the table as Markdown.

        >>> print(Table("Sizes", ("what", "metres"), (("hill", "80"),), labels=1).markdown())
        **Sizes**
        <BLANKLINE>
        | what | metres |
        |---|---:|
        | hill | 80 |
        """
        rule = ["---" if column < self.labels else "---:" for column in range(len(self.header))]
        lines = [self.header, *self.rows]
        written = [f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines]
        return "\n".join([f"**{self.title}**", "", written[0], f"|{'|'.join(rule)}|", *written[1:]])


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def share(estimate: Mapping[str, float], *, interval: bool = False) -> str:
    """Write a share in 0..1.

    >>> share({"value": 0.5, "low": 0.25, "high": 0.75}, interval=True)
    '0.500 (0.250 to 0.750)'
    """
    text = f"{estimate['value']:.3f}"
    return f"{text} ({estimate['low']:.3f} to {estimate['high']:.3f})" if interval else text


def points(estimate: Mapping[str, float], *, signed: bool = False) -> str:
    """Write a share in 0..1 in points of 100, as SQuAD's scores are given, with its interval.

    >>> points({"value": -0.012, "low": -0.03, "high": 0.0}, signed=True)
    '-1.2 (-3.0 to +0.0)'
    """
    value, low, high = (f"{100 * estimate[key]:{'+' if signed else ''}.1f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def described(grit: GritLM) -> dict[str, Any]:
    """Return what a reader needs to know of the model; of a directory, its name alone."""
    about = dict(grit.load().describe())
    if Path(grit.source).is_dir():
        about["model"] = Path(grit.source).resolve().name
    return about


def environment() -> dict[str, Any]:
    """Return what a reader needs to know of the machine and the software to judge a figure."""
    import torch

    processor = torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine()
    return {
        "cpu": processor,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a file that is there whole or as it was before, whenever the process ends."""
    _replace(path, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON line per record, in the same all-or-nothing way."""
    _replace(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def joined(names: Sequence[str]) -> str:
    """Return names for a message, or that there are none.

    >>> joined([]), joined(["b", "a"])
    ('none', 'a, b')
    """
    return ", ".join(sorted(names)) or "none"
