"""The console: where commands print, errors in one line, paths as a person writes them, tables of facts."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from grit_integrations.cli.printable import printable

LOG_WIDTH = 100  # columns where there is no terminal to ask


class PlainConsole(Console):
    """A console on which text is only text: the control sequences that reach the terminal are rich's own.

    Passages, answers, file names and error messages come from files and models that nobody vouches for.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what is printed of anything, with control characters spelled out, and what the terminal cannot show."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(self._shown(segment.text), segment.style)

    def _shown(self, text: str) -> str:
        return printable(text).encode(self.encoding, "backslashreplace").decode(self.encoding)


def console(*, stderr: bool = False) -> Console:
    """Return a console on the present standard output or error, 100 columns wide where it is no terminal."""
    stream = sys.stderr if stderr else sys.stdout
    fixed = None if stream.isatty() or "COLUMNS" in os.environ else LOG_WIDTH
    return PlainConsole(stderr=stderr, width=fixed, highlight=False, emoji=False)


def is_terminal() -> bool:
    """Whether somebody can answer what a command asks."""
    return sys.stdin.isatty()


def print_error(error: BaseException | str) -> None:
    """Print an error as one red line on standard error."""
    message = " ".join(str(error).split()) or type(error).__name__
    console(stderr=True).print(Text.assemble(("Error: ", "bold red"), (message, "red")), soft_wrap=True)


def print_traceback(error: BaseException) -> None:
    """Print an error with its traceback on standard error."""
    lines = "".join(traceback.format_exception(error)).rstrip()
    console(stderr=True).print(Text(lines), soft_wrap=True)


def print_facts(facts: Mapping[str, str]) -> None:
    """Print facts one below the other, each with its name in front."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, escape(value))
    console().print(table)


def shown_path(path: str | Path) -> str:
    """Return a path as a person here would write it: relative where that is shorter, in one line."""
    relative = os.path.relpath(path)
    shown = relative if len(relative) < len(str(path)) else str(path)
    return printable(shown, lines=False)
