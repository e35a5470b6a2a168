"""The frame of all commands: shared options, and errors as one line instead of a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from grit_integrations.cli.output import console, print_error
from grit_integrations.errors import GritError, OptionError
from grit_integrations.kv.sizes import parse_size
from grit_integrations.options import CACHINGS, MODES

INTERRUPTED = 130  # what shells report for Ctrl-C


class GritGroup(TyperGroup):
    """Commands whose expected errors are one red line and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; show an error that has a cure without a traceback, unless `--debug` is given."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            console(stderr=True).print("[yellow]Stopped.[/]")
            raise typer.Exit(INTERRUPTED) from None
        except (GritError, OSError) as error:
            if ctx.find_root().meta.get("debug"):
                raise
            print_error(error)
            raise typer.Exit(1) from None


def examples(*lines: str) -> str:
    """Lay out examples as the end of a help page."""
    return "\n\n".join(["[bold]Examples[/]", *(f"[cyan]{line}[/]" for line in lines)])


def one_of(values: Sequence[str]) -> Callable[[typer.CallbackParam, str | None], str | None]:
    """Return a check of an option that has only so many values."""

    def check(option: typer.CallbackParam, value: str | None) -> str | None:
        if value is not None and value not in values:
            raise OptionError(f"{option.opts[0]} {value} is unknown. Use one of {', '.join(values)}.")
        return value

    return check


def a_size(option: typer.CallbackParam, value: str | None) -> str | None:
    """Check an option that is a size in bytes."""
    try:
        return value if value is None else str(parse_size(value))
    except OptionError as error:
        raise OptionError(f"{option.opts[0]}: {error}") from None


def is_terminal() -> bool:
    """Whether somebody can answer what a command asks."""
    return sys.stdin.isatty()


def _set_debug(ctx: typer.Context, value: bool) -> bool:
    if value:
        ctx.find_root().meta["debug"] = True
    return value


ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        envvar="GRIT_MODEL",
        metavar="NAME",
        help="Directory, hub id, or [bold]grit-mini[/], the small model that comes along.",
        show_default="the store's model, else grit-mini",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", envvar="GRIT_DEVICE", help="Such as cpu or cuda:0.", show_default="the best one here"),
]
StoreOption = Annotated[
    Path, typer.Option("--store", envvar="GRIT_STORE", metavar="DIR", help="Where the index is kept.")
]
DebugOption = Annotated[bool, typer.Option("--debug", callback=_set_debug, help="Show the traceback of an error.")]
QuoteOption = Annotated[
    bool | None,
    typer.Option(
        "--quote/--free",
        help="Answer with sentences of the passages, or let the model write.",
        show_default="--quote for grit-mini, else --free",
    ),
]
PassagesOption = Annotated[
    int, typer.Option("-k", "--passages", min=1, max=100, help="How many passages to answer from.")
]
RerankOption = Annotated[
    int | None,
    typer.Option(
        "--rerank",
        min=0,
        max=100,
        metavar="N",
        help="Retrieve N passages and let the model judge which of them to answer from; 0 takes the nearest.",
        show_default="20 for grit-mini, else 0",
    ),
]
AnswerCachingOption = Annotated[
    str | None,
    typer.Option(
        "--caching",
        callback=one_of(CACHINGS),
        metavar="MODE",
        help="What of a prompt is read from the KV cache: off, prefix, doc, query, query-doc or doc-query.",
        show_default="as the index was made",
    ),
]
TokensOption = Annotated[int, typer.Option("--max-tokens", min=1, help="The longest answer.")]

DEFAULT_STORE = Path(".grit")
INDEX_CACHINGS = tuple(name for name, mode in MODES.items() if mode.indexable)
