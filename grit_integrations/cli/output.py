"""What every command prints the same way: answers, sources, bars, tables and errors."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from grit_integrations.kv.sizes import format_size

if TYPE_CHECKING:
    from langchain_core.documents import Document

    from grit_integrations.ingest import Hit, IndexProgress
    from grit_integrations.results import Generation

LOG_WIDTH = 100  # columns where there is no terminal to ask


def console(*, stderr: bool = False) -> Console:
    """Return a console on the present standard output or error, 100 columns wide where it is no terminal."""
    stream = sys.stderr if stderr else sys.stdout
    fixed = None if stream.isatty() or "COLUMNS" in os.environ else LOG_WIDTH
    return Console(stderr=stderr, width=fixed, highlight=False)


def print_error(error: BaseException | str) -> None:
    """Print an error as one red line on standard error."""
    message = " ".join(str(error).split()) or type(error).__name__
    console(stderr=True).print(Text.assemble(("Error: ", "bold red"), (message, "red")), soft_wrap=True)


def one_line(text: str) -> str:
    """Return `text` without line breaks and runs of spaces."""
    return " ".join(text.split())


def shown_path(path: str | Path) -> str:
    """Return a path as a person here would write it: relative where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)


def place(document: Document) -> str:
    """Return where a passage is from: its file, and its page in a PDF."""
    metadata = document.metadata
    page = f", page {metadata['page']}" if "page" in metadata else ""
    return f"{shown_path(str(metadata.get('source', '?')))}{page}"


class WrappedStream:
    """Prints text as it comes, broken between words at the width of the console.

    A word appears when it is complete, or when it fills a line.

    Args:
        out: where it is printed.
        indent: columns left free in front of each line.
    """

    def __init__(self, out: Console, indent: int = 0) -> None:
        self.out = out
        self.indent = indent
        self._room = out.width - indent
        self._word = ""
        self._column = 0
        self._space = ""  # kept back until a word follows on the same line

    def add(self, piece: str) -> None:
        """Print what is certain after `piece`."""
        for part in re.findall(r"\n|[^\S\n]+|\S+", piece):
            if not part.isspace():
                self._word += part
                while cell_len(self._word) > self._room:
                    fitting = _fitting(self._word, self._room)
                    self._put(fitting)
                    self._word = self._word[len(fitting) :]
                continue
            self._flush()
            if part == "\n":
                self._break()
            else:
                self._space = " " if self._column else ""

    def end(self) -> None:
        """Print the last word and end the line."""
        self._flush()
        self._break()

    def _flush(self) -> None:
        if self._word:
            self._put(self._word)
            self._word = ""

    def _put(self, text: str) -> None:
        text = self._space + text
        if self._column + cell_len(text) > self._room:
            self._break()
            text = text.lstrip()
        self._space = ""
        lead = "" if self._column else " " * self.indent
        self.out.print(lead + text, end="", markup=False, soft_wrap=True)
        self._column += cell_len(text)

    def _break(self) -> None:
        self.out.print()
        self._column, self._space = 0, ""


def _fitting(word: str, room: int) -> str:
    """Return the start of `word` that fills `room` columns; wide characters take two."""
    ends = (end for end in range(len(word), 1, -1) if cell_len(word[:end]) <= room)
    return word[: next(ends, 1)]


def print_sources(out: Console, hits: Sequence[Hit], *, judged: bool) -> None:
    """Print the passages that an answer is from: number, similarity or the model's verdict, file and title."""
    out.print(f"[bold]Sources[/] [dim]({'relevance' if judged else 'cosine similarity'})[/]")
    for number, hit in enumerate(hits, 1):
        line = Text.assemble((f" [{number}]", "cyan"), (f" {hit.score:.3f} ", "green"), place(hit.document))
        title = one_line(str(hit.document.metadata.get("title", "")))
        out.print(line.append(f"  {title}", style="dim"), soft_wrap=True)


def _bar(out: Console, name: str) -> Progress:
    columns = (
        TextColumn(name),
        BarColumn(bar_width=32),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("[dim]{task.description}"),
    )
    return Progress(*columns, console=out, transient=True, disable=not out.is_terminal)


@contextmanager
def caching_bar(out: Console, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar while passages are read into the KV cache, on a terminal only; yields what counts them."""
    with _bar(out, "Caching") as bar:
        task = bar.add_task(f"{total:,} passages", total=total)
        yield lambda count: bar.advance(task, count)


@contextmanager
def indexing_bar(out: Console) -> Iterator[Callable[[IndexProgress], None]]:
    """Show a bar while files are indexed, on a terminal only; yields what takes the progress."""
    with _bar(out, "Indexing") as bar:
        task = bar.add_task("", total=None)

        def show(progress: IndexProgress) -> None:
            name = escape(Path(progress.file).name)
            bar.update(task, total=max(progress.total, 1), completed=progress.done, description=name)

        yield show


def print_reuse(out: Console, generation: Generation) -> None:
    """Print how much of a prompt was read from the KV cache and what that gained, unless caching was off."""
    cache, usage = generation.cache, generation.usage
    if cache.mode == "off":
        return
    read, whole = usage.cache_read_tokens, usage.prompt_tokens
    share = f" ({100 * read / whole:.0f} %)" if read else ""
    parts = [
        f"cache: {read:,} of {whole:,} prompt tokens read{share}",
        f"first token after {generation.timings.time_to_first_token:.2f} s",
    ]
    if cache.seconds_saved is not None and cache.seconds_saved >= 0.05:
        parts.append(f"{cache.seconds_saved:.1f} s saved")
    if cache.declined:
        parts.append(f"{counted(len(cache.declined), 'block')} computed, which is faster here")
    out.print(f"[dim]{' · '.join(parts)}[/]")


def counted(count: int, what: str) -> str:
    """Return a number and what is counted, in the plural unless there is one.

    >>> counted(1, "block"), counted(1200, "block")
    ('1 block', '1,200 blocks')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def disk_size(count: int) -> str:
    """Return bytes on disk in the decimal units that `--cache-size` takes.

    >>> disk_size(10_000_000_000)
    '10 GB'
    """
    return format_size(count).replace(".0 ", " ")


def byte_size(count: float) -> str:
    """Return a number of bytes as a person reads it.

    >>> byte_size(34_743_296)
    '33.1 MiB'
    """
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
