"""Build the markdown of `corpus/` from the cleaned passages it was picked from: `python build_corpus.py SHARED_DATA`.

SHARED_DATA is a folder with `corpus/NAME.jsonl.zst`, one passage per line: `{"title": "Section — Heading", "text": ...,
"source": ...}`, in the order of the book. Chapters are runs of rows; each section becomes one file. Nothing is
rewritten: paragraphs are the passages as they stand, headings are their titles. What was left out is in `_END_MATTER`.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from string import capwords

import zstandard

CORPUS = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Chapter:
    """A run of sections, from the introduction in front of `first` to the end of `last`."""

    file: str
    folder: str
    title: str
    first: str
    last: str


CHAPTERS = (
    Chapter("openstax_astronomy", "astronomy/earth-moon-and-sky", "Earth, Moon, and Sky",
            "Earth and Sky", "Eclipses of the Sun and Moon"),
    Chapter("openstax_astronomy", "astronomy/black-holes-and-curved-spacetime", "Black Holes and Curved Spacetime",
            "Introducing General Relativity", "Gravitational Wave Astronomy"),
    Chapter("openstax_us-history", "us-history/westward-expansion-1800-1860",
            "A Nation on the Move: Westward Expansion, 1800–1860", "Lewis and Clark",
            "Free or Slave Soil? The Dilemma of the West"),
    Chapter("fastapi_fastapi", "fastapi/tutorial", "FastAPI tutorial", "Background Tasks", "Testing"),
    Chapter("fastapi_fastapi", "fastapi/deployment", "Deploying FastAPI",
            "Deployments Concepts", "About FastAPI versions"),
)  # fmt: skip

_OPENINGS = ("Introduction", "Thinking Ahead")  # unnumbered first page of a textbook chapter
_END_MATTER = (
    "Books", "Articles", "Websites", "Videos", "Collaborative Group Activities", "Learning Objectives", "Recap",
    "For Further Exploration",
)  # fmt: skip
_ANCHOR = re.compile(r"\s*\{ ?#[^}]*\}")  # FastAPI's headings carry their link targets


def main(data: Path) -> None:
    """Write every chapter's files and print how much there is."""
    for chapter in CHAPTERS:
        folder = CORPUS / chapter.folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        passages = 0
        for number, (title, rows) in enumerate(sections(chapter, data), start=1):
            name = title if title not in _OPENINGS else "Introduction"
            slug = re.sub(r"[^a-z0-9]+", "-", name.lower().replace("’", "")).strip("-")
            heading = f"{chapter.title}: introduction" if title in _OPENINGS else title
            (folder / f"{number:02d}-{slug}.md").write_text(markdown(heading, rows), encoding="utf-8")
            passages += len(rows)
        print(f"{chapter.folder}: {number} files, {passages} passages")


def sections(chapter: Chapter, data: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield each section's title and its (heading, text) rows."""
    rows = list(chapter_rows(chapter, data))
    for title, group in groupby(rows, key=lambda row: row[0]):
        kept = [(heading, text) for _, heading, text in group if heading not in _END_MATTER]
        if kept:
            yield title, kept


def chapter_rows(chapter: Chapter, data: Path) -> list[tuple[str, str, str]]:
    """Return the chapter's rows as (section, heading, text)."""
    with zstandard.open(data / "corpus" / f"{chapter.file}.jsonl.zst", "rt", encoding="utf-8") as lines:
        rows = [split_title(json.loads(line)) for line in lines]
    titles = [row[0] for row in rows]
    start = titles.index(chapter.first)
    end = len(titles) - titles[::-1].index(chapter.last)
    while start and titles[start - 1] in _OPENINGS:
        start -= 1
    return rows[start:end]


def split_title(row: dict[str, str]) -> tuple[str, str, str]:
    """Return a passage's section, its heading below that (empty for none), and its text."""
    section, _, heading = _ANCHOR.sub("", row["title"]).partition(" — ")
    return section.strip(), heading.strip(), row["text"].strip()


def markdown(title: str, rows: list[tuple[str, str]]) -> str:
    """Return one section as markdown, a paragraph per passage."""
    parts = [f"# {title}"]
    for heading, group in groupby(rows, key=lambda row: row[0]):
        if heading:
            parts.append(f"## {sentence_case(heading)}")
        parts += [text for _, text in group]
    return "\n\n".join(parts) + "\n"


def sentence_case(heading: str) -> str:
    """Return a heading that shouts in the words' own case."""
    return capwords(heading) if heading.isupper() and len(heading) > 4 else heading


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
