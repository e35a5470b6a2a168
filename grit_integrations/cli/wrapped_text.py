"""Text in lines of the console's width: whole, or as it is generated."""

from __future__ import annotations

import re

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text


def one_line(text: str) -> str:
    """Return `text` without line breaks and runs of spaces."""
    return " ".join(text.split())


def print_wrapped(out: Console, text: Text, indent: int) -> None:
    """Print a text in lines that begin after `indent` columns and end, paths aside, within the console's width."""
    for line in text.wrap(out, max(1, out.width - indent)):
        out.print(Text.assemble(" " * indent, line), soft_wrap=True)


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
