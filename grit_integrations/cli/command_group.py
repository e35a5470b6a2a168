"""A group of commands: expected errors in one line instead of a traceback, and examples on help pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from grit_integrations.cli.console import console, print_error, print_traceback
from grit_integrations.cli.printable import plain_logs, printable
from grit_integrations.errors import GritError

INTERRUPTED = 130  # what shells report for Ctrl-C


class GritGroup(TyperGroup):
    """Commands whose expected errors are one red line and exit code 1."""

    def make_context(self, *given: Any, **options: Any) -> Any:
        """Parse the group's own arguments; they are as little trusted as the names of files that a shell puts there."""
        with _plain_usage():
            return super().make_context(*given, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; show an error that has a cure without a traceback, unless `--debug` is given."""
        with plain_logs(), _plain_usage():
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                console(stderr=True).print("[yellow]Stopped.[/]")
                raise typer.Exit(INTERRUPTED) from None
            except (typer.Exit, typer.Abort):
                raise
            except Exception as error:
                if hasattr(error, "format_message"):  # click's own, which typer shows with the usage
                    raise
                expected = isinstance(error, GritError | OSError) and not ctx.find_root().meta.get("debug")
                (print_error if expected else print_traceback)(error)
                raise typer.Exit(1) from None


@contextmanager
def _plain_usage() -> Iterator[None]:
    """Spell out control characters in click's errors, which quote what was typed."""
    try:
        yield
    except Exception as error:
        if hasattr(error, "format_message") and isinstance(getattr(error, "message", None), str):
            error.message = printable(error.message)  # type: ignore[attr-defined]  # a ClickException's
        raise


def examples(*lines: str) -> str:
    """Lay out examples as the end of a help page."""
    return "\n\n".join(["[bold]Examples[/]", *(f"[cyan]{line}[/]" for line in lines)])
