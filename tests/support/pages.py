"""The documentation as data: its pages, fenced blocks and tables."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
BENCHMARKS = DOCS / "benchmarks.md"
PACKAGE = ROOT / "grit_integrations"
MINI = PACKAGE / "bundled" / "grit-mini"
CARD = MINI / "README.md"
RESULTS = ROOT / "benchmarks" / "results"

_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: the file that it stands in.
        line: the number of its first line there.
        language: the first word behind the fence.
        flags: the words after that one, such as `no-run`.
        text: what stands between the fences.
        output: what the block is said to print, if a block of the language `text` follows right behind it.
    """

    page: Path
    line: int
    language: str
    flags: tuple[str, ...]
    text: str
    output: str | None = None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def pages() -> list[Path]:
    """Return every page that readers are sent to: the README, `docs/`, and what stands beside the weights."""
    return [README, *sorted(DOCS.glob("*.md")), CARD]


def prose(page: Path) -> str:
    """Return the text of a page as one line, however it is broken into lines."""
    return " ".join(page.read_text(encoding="utf-8").split())


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page in order; an output belongs to the block before it."""
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    for match in _FENCE.finditer(text):
        language, *flags = match[1].split() or [""]
        output = None
        if following := re.match(r"\n+```text\n(.*?)^```$", text[match.end() :], flags=re.MULTILINE | re.DOTALL):
            output = following[1]
        line = text.count("\n", 0, match.start(2)) + 1
        found.append(Block(page, line, language, tuple(flags), match[2], output))
    return found


def result(name: str) -> dict[str, Any]:
    """Return what a benchmark wrote."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def constant(room: str, name: str) -> int:
    """Return a number that a module of a room holds under a private name, whichever module it is."""
    files = [file.read_text(encoding="utf-8") for file in (PACKAGE / room).rglob("*.py")]
    (found,) = (int(value) for text in files for value in re.findall(rf"^{name} = (\d+)\b", text, flags=re.MULTILINE))
    return found


def table(text: str, first: str) -> list[list[str]]:
    """Return the cells of the rows below the one header whose cells begin with `first`."""
    parts = re.split(rf"^\|[ ]?{re.escape(first)}.*\n", text, flags=re.MULTILINE)
    assert len(parts) == 2, f"{len(parts) - 1} tables begin with {first!r}"
    rows = parts[1].split("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in rows]


def matches(shown: str, printed: str) -> bool:
    """Whether a text is what a page shows, where an ellipsis stands for anything and ends of lines do not count."""
    wanted = ".*?".join(map(re.escape, shown.split("…")))
    return re.fullmatch(wanted, "".join(f"{line.rstrip()}\n" for line in printed.splitlines()), re.DOTALL) is not None
