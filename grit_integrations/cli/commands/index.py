"""`grit index`: bring an index, and the KV cache beside it, in step with files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from grit_integrations.cli.command_group import examples
from grit_integrations.cli.command_options import (
    DEFAULT_STORE,
    DebugOption,
    DeviceOption,
    ModelOption,
    StoreOption,
    a_size,
    one_of,
)
from grit_integrations.cli.console import console
from grit_integrations.kv.sizes import parse_size
from grit_integrations.options import MODES, PRECISIONS

if TYPE_CHECKING:
    from grit_integrations.options import Caching, Precision

INDEX_CACHINGS = tuple(name for name, mode in MODES.items() if mode.indexable)
EXAMPLES = examples(
    "grit index notes/ manual.pdf",
    "grit index docs/ --store ~/indexes/docs",
    "grit index docs/   [dim]# again: only what changed is read[/]",
    "grit index docs/ --caching doc --precision int8   [dim]# answers start sooner[/]",
    "grit index --forget old-notes/   [dim]# drop what was indexed from there[/]",
)


def index(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files or folders: txt, md, html, pdf.")],
    *,
    store: StoreOption = DEFAULT_STORE,
    passage_tokens: Annotated[
        int | None,
        typer.Option("--passage-tokens", help="Longest passage of a new store, in tokens.", show_default="192"),
    ] = None,
    caching: Annotated[
        str | None,
        typer.Option(
            "--caching",
            callback=one_of(INDEX_CACHINGS),
            metavar="MODE",
            help="Keep what the model has read of each passage, so that answers start sooner. [bold]off[/]: nothing; "
            "[bold]prefix[/]: answers stay as they are; [bold]doc[/]: passages are read apart from each other, once.",
            show_default="the index's, else off",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            callback=one_of(PRECISIONS),
            metavar="KIND",
            help="How it is kept: [bold]native[/], or [bold]int8[/], which takes less room and is not exact.",
            show_default="the index's, else native",
        ),
    ] = None,
    cache_size: Annotated[
        str | None,
        typer.Option(
            "--cache-size",
            callback=a_size,
            metavar="SIZE",
            help="Disk space that it may take, such as 500MB or 20GB.",
            show_default="the index's, else 10GB",
        ),
    ] = None,
    max_file_size: Annotated[
        str,
        typer.Option(
            "--max-file-size",
            callback=a_size,
            metavar="SIZE",
            help="Larger files are listed and not read, such as 1GB.",
        ),
    ] = "100MB",
    forget: Annotated[bool, typer.Option("--forget", help="Remove these paths from the store instead.")] = False,
    model: ModelOption = None,
    device: DeviceOption = None,
    debug: DebugOption = False,
) -> None:
    """Index files so that [bold]grit ask[/] can answer from them.

    Unchanged files are skipped, changed ones replaced, deleted ones removed.

    Files that cannot be read are listed. After Ctrl-C, the next run continues from there.
    """
    from grit_integrations.cli.index_update import IndexOptions, forget_files, index_files

    options = IndexOptions(
        passage_tokens=passage_tokens,
        caching=cast("Caching | None", caching),
        precision=cast("Precision | None", precision),
        cache_size=cache_size,
        max_file_bytes=parse_size(max_file_size),
        model=model,
        device=device,
    )
    (forget_files if forget else index_files)(console(), store, paths, options)
