"""What an answer looks like: quotes, sources, and how much of the prompt the KV cache had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from grit_integrations.cli.amounts import counted
from grit_integrations.cli.console import shown_path
from grit_integrations.cli.wrapped_text import one_line, print_wrapped
from grit_integrations.results import Generation, Quote

if TYPE_CHECKING:
    from langchain_core.documents import Document

    from grit_integrations.ingest import Hit


def print_quote(out: Console, quote: Quote, *, indent: int = 0) -> None:
    """Print a quote with the number of its source.

    Args:
        out: where it is printed.
        quote: a span of a document.
        indent: columns left free in front of each line.
    """
    answer = Text.assemble((f"“{one_line(quote.text)}”", "bold"), (f" [{quote.document + 1}]", "cyan"))
    print_wrapped(out, answer, indent)


def print_sources(out: Console, hits: Sequence[Hit], *, judged: bool) -> None:
    """Print the passages that an answer is from: number, similarity or the model's verdict, file and title."""
    out.print(f"[bold]Sources[/] [dim]({'relevance' if judged else 'cosine similarity'})[/]")
    for number, hit in enumerate(hits, 1):
        line = Text.assemble((f" [{number}]", "cyan"), (f" {hit.score:.3f} ", "green"), _place(hit.document))
        title = one_line(str(hit.document.metadata.get("title", "")))
        out.print(line.append(f"  {title}", style="dim"), soft_wrap=True)


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


def _place(document: Document) -> str:
    """Return where a passage is from: its file, and its page in a PDF."""
    metadata = document.metadata
    page = f", page {metadata['page']}" if "page" in metadata else ""
    return f"{shown_path(str(metadata.get('source', '?')))}{page}"
