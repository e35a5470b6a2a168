"""How the commands quote, and what a quote looks like on the screen."""

from __future__ import annotations

import re

from rich.console import Console
from rich.text import Text

from grit_integrations.cli.output import one_line
from grit_integrations.generation import Quote, Quoting
from grit_integrations.sentences import sentences

# What grit-mini answers best with (its model card): a span of the two neighbouring sentences that are shown with it.
QUOTING = Quoting(method="spans", sentences=1, neighbours=2, echo=False)

QUOTES_NOTE = "grit-mini answers with words of the passages; --free lets it write."

_MARGIN = 240  # characters shown on each side of a quote, at most


def print_quote(out: Console, quote: Quote, passage: str, *, indent: int = 0) -> None:
    """Print a quote with the number of its source, and under it the sentences that it is from, if they say more.

    Args:
        out: where it is printed.
        quote: a span of `passage`.
        passage: its whole document.
        indent: columns left free in front of each line.
    """
    answer = Text.assemble((f"“{one_line(quote.text)}”", "bold"), (f" [{quote.document + 1}]", "cyan"))
    print_wrapped(out, answer, indent)
    before, after = surroundings(quote, passage)
    if re.search(r"\w", before + after):
        text = Text.assemble((before, "dim"), (re.sub(r"\s+", " ", quote.text), "bold"), (after, "dim"))
        print_wrapped(out, text, indent)


def surroundings(quote: Quote, passage: str) -> tuple[str, str]:
    """Return what stands before and behind a quote in its sentences: those it was picked from, or those it stands in.

    Each is on one line. Long ones are cut between words, with an ellipsis, to what stands next to the quote.

    >>> text = "The heart pumps blood. It beats all day long. It never rests."
    >>> surroundings(Quote("all day", 0, 32, 39, 0.0), text)
    ('It beats ', ' long.')
    >>> surroundings(Quote("all day", 0, 32, 39, 0.0, within=(23, 61)), text)
    ('It beats ', ' long. It never rests.')
    """
    start, end = quote_sentences(quote, passage)
    before, after = passage[start : quote.start], passage[quote.end : end]
    return _cut(before[::-1])[::-1].lstrip(), _cut(after).rstrip()


def quote_sentences(quote: Quote, passage: str) -> tuple[int, int]:
    """Return where the sentences of a quote begin and end in its passage."""
    if quote.within is not None:
        return quote.within
    touched = [(first, last) for first, last in sentences(passage) if first < quote.end and quote.start < last]
    return (touched[0][0], touched[-1][1]) if touched else (quote.start, quote.end)


def _cut(text: str) -> str:
    """Return the start of a text, up to a space where it is too long to show."""
    spaced = re.sub(r"\s+", " ", text)
    return spaced if len(spaced) <= _MARGIN else spaced[: spaced.rfind(" ", 0, _MARGIN) + 1] + "…"


def print_wrapped(out: Console, text: Text, indent: int) -> None:
    """Print a text in lines that begin after `indent` columns and end, paths aside, within the console's width."""
    for line in text.wrap(out, max(1, out.width - indent)):
        out.print(Text.assemble(" " * indent, line), soft_wrap=True)
