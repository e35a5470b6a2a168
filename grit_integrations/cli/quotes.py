"""How the commands quote, and what a quote looks like on the screen."""

from __future__ import annotations

import re

from rich.console import Console
from rich.text import Text

from grit_integrations.cli.output import one_line
from grit_integrations.generation import Quote, Quoting
from grit_integrations.sentences import sentences

QUOTING = Quoting(method="spans", sentences=1, echo=False)  # what grit-mini answers best with (its model card)

QUOTES_NOTE = "grit-mini answers with words of the passages; --free lets it write."

_MARGIN = 160  # characters shown on each side of a quote, at most


def print_quote(out: Console, quote: Quote, passage: str, *, indent: int = 0) -> None:
    """Print a quote with the number of its source, and under it the sentence that it is from, if it is not all of it.

    Args:
        out: where it is printed.
        quote: a span of `passage`.
        passage: its whole document.
        indent: columns left free in front of each line.
    """
    answer = Text.assemble((f"“{one_line(quote.text)}”", "bold"), (f" [{quote.document + 1}]", "cyan"))
    print_wrapped(out, answer, indent)
    sentence = sentence_around(passage, quote.start, quote.end)
    if sentence:
        print_wrapped(out, Text(sentence, style="dim"), indent)


def sentence_around(passage: str, start: int, end: int) -> str:
    """Return the sentence or sentences that a span stands in, on one line; nothing if they say no more than it.

    Long ones are cut between words, with an ellipsis, to what stands next to the span.

    >>> text = "The heart pumps blood. It beats all day long. It never rests."
    >>> sentence_around(text, text.index("all day"), text.index(" long"))
    'It beats all day long.'
    >>> sentence_around(text, 0, text.index(" It beats"))
    ''
    """
    touched = [(first, last) for first, last in sentences(passage) if first < end and start < last]
    if not touched:
        return ""
    before, after = passage[touched[0][0] : start], passage[end : touched[-1][1]]
    if not re.search(r"\w", before + after):
        return ""
    return one_line(_cut(before[::-1])[::-1] + passage[start:end] + _cut(after))


def _cut(text: str) -> str:
    """Return the start of a text, up to a space where it is too long to show."""
    spaced = re.sub(r"\s+", " ", text)
    return spaced if len(spaced) <= _MARGIN else spaced[: spaced.rfind(" ", 0, _MARGIN) + 1] + "…"


def print_wrapped(out: Console, text: Text, indent: int) -> None:
    """Print a text in lines that begin after `indent` columns and end, paths aside, within the console's width."""
    for line in text.wrap(out, max(1, out.width - indent)):
        out.print(Text.assemble(" " * indent, line), soft_wrap=True)
