"""The bars of `grit index` and the demo; on a terminal only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from grit_integrations.ingest import IndexProgress


@contextmanager
def caching_bar(out: Console, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar while passages are read into the KV cache, on a terminal only; yields what counts them."""
    with _bar(out, "Caching") as bar:
        task = bar.add_task(f"{total:,} passages", total=total)
        yield lambda count: bar.advance(task, count)


@contextmanager
def indexing_bar(out: Console) -> Iterator[Callable[[IndexProgress], None]]:
    """Show a bar while files are indexed, on a terminal only; yields what takes the progress."""
    with _bar(out, "Indexing") as bar:
        task = bar.add_task("", total=None)

        def show(progress: IndexProgress) -> None:
            name = escape(Path(progress.file).name)
            bar.update(task, total=max(progress.total, 1), completed=progress.done, description=name)

        yield show


def _bar(out: Console, name: str) -> Progress:
    columns = (
        TextColumn(name),
        BarColumn(bar_width=32),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("[dim]{task.description}"),
    )
    return Progress(*columns, console=out, transient=True, disable=not out.is_terminal)
