"""A group of commands: expected errors in one line instead of a traceback, and examples on help pages."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from grit_integrations.cli.console import console, print_error
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


def examples(*lines: str) -> str:
    """Lay out examples as the end of a help page."""
    return "\n\n".join(["[bold]Examples[/]", *(f"[cyan]{line}[/]" for line in lines)])
