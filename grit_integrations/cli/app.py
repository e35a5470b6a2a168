"""The frame of all commands: shared options, and errors as one line instead of a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from grit_integrations.cli.output import console, print_error
from grit_integrations.errors import GritError

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
        help="Quote the passages' sentences, or let the model write.",
        show_default="--quote for grit-mini, else --free",
    ),
]
PassagesOption = Annotated[int, typer.Option("-k", "--passages", min=1, max=100, help="How many passages to retrieve.")]
TokensOption = Annotated[int, typer.Option("--max-tokens", min=1, help="The longest answer that is written.")]

DEFAULT_STORE = Path(".grit")
