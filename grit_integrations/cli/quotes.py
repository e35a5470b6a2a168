"""How the commands quote, and what a quote looks like on the screen."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from grit_integrations.cli.output import one_line
from grit_integrations.options import Quoting
from grit_integrations.results import Quote

# What grit-mini answers best with (its model card): the two neighbouring sentences that are nearest to the question.
QUOTING = Quoting(method="sentences", sentences=1, neighbours=2)

QUOTES_NOTE = "grit-mini answers with sentences of the passages; --free lets it write."


def print_quote(out: Console, quote: Quote, *, indent: int = 0) -> None:
    """Print a quote with the number of its source.

    Args:
        out: where it is printed.
        quote: a span of a document.
        indent: columns left free in front of each line.
    """
    answer = Text.assemble((f"“{one_line(quote.text)}”", "bold"), (f" [{quote.document + 1}]", "cyan"))
    print_wrapped(out, answer, indent)


def print_wrapped(out: Console, text: Text, indent: int) -> None:
    """Print a text in lines that begin after `indent` columns and end, paths aside, within the console's width."""
    for line in text.wrap(out, max(1, out.width - indent)):
        out.print(Text.assemble(" " * indent, line), soft_wrap=True)
