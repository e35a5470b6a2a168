"""Bring an index, and the KV cache beside it, in step with files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from grit_integrations.cli.cache_settings import CacheSettings, cache_directory, read_settings, write_settings
from grit_integrations.cli.console import shown_path
from grit_integrations.cli.index_cache import fill, model_cache, print_cache, print_changes
from grit_integrations.cli.model_choice import model_for_store, open_index
from grit_integrations.cli.progress_bars import indexing_bar
from grit_integrations.errors import OptionError
from grit_integrations.ingest import IndexReport, PassageIndex, find_files
from grit_integrations.ingest.index_card import read_card
from grit_integrations.ingest.write_lock import writing_to
from grit_integrations.options import Caching, Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions:
    """What `grit index` was asked for; `None` is what the index remembers."""

    passage_tokens: int | None
    caching: Caching | None
    precision: Precision | None
    cache_size: str | None
    max_file_bytes: int
    model: str | None
    device: str | None


def index_files(out: Console, directory: Path, paths: Sequence[Path], options: IndexOptions) -> None:
    """Index files, keep what answers start from, and print what was done.

    Raises:
        IngestError: a wrong path, or an index that cannot be used.
        OptionError: a value that is not possible.
    """
    find_files(paths)  # a wrong path is refused before an index is made
    new = read_card(directory) is None
    grit = model_for_store(directory, options.model, options.device)
    index = PassageIndex(directory, grit, create=True, passage_tokens=options.passage_tokens)
    with writing_to(directory):  # until the KV cache is filled, so that no other run comes between
        old = read_settings(directory)
        settings = old.changed(options.caching, options.precision, options.cache_size)
        if not new:
            print_changes(out, old, settings)
        write_settings(directory, replace(settings, filled=False))  # until this run has come to its end
        _run(out, index, paths, settings, options.max_file_bytes)
    if new and options.caching is None:
        out.print("[dim]KV cache: off. --caching doc keeps what is read, so that answers start sooner.[/]")


def forget_files(out: Console, directory: Path, paths: Sequence[Path], options: IndexOptions) -> None:
    """Remove files from an index and print what was done.

    Raises:
        IngestError: there is no index.
        OptionError: options that only indexing has.
    """
    if (options.caching, options.precision, options.cache_size) != (None, None, None):
        raise OptionError("--forget reads nothing, so it takes no --caching, --precision or --cache-size. Omit them.")
    index = open_index(directory, options.model, options.device)
    report = index.forget(paths)
    _print_report(out, index, report)
    if report.removed and cache_directory(directory).is_dir():
        out.print("[dim]KV blocks of their text stay until they are evicted; grit cache clear deletes all.[/]")


def _run(
    out: Console, index: PassageIndex, paths: Sequence[Path], settings: CacheSettings, max_file_bytes: int
) -> None:
    with model_cache(index, settings.caching, writing=True) as (opened, kv):
        with indexing_bar(out) as show:
            report = opened.index(paths, on_progress=show, max_file_bytes=max_file_bytes)
        _print_report(out, opened, report)
        if kv is None:
            return
        fill(out, opened, kv, report, filled=settings.filled)
        write_settings(opened.directory, replace(settings, filled=True))
        print_cache(out, settings, kv)


def _print_report(out: Console, index: PassageIndex, report: IndexReport) -> None:
    parts = [
        f"[{colour}]{len(files)} {what}[/]"
        for what, colour, files in (
            ("added", "green", report.added),
            ("changed", "green", report.changed),
            ("unchanged", "dim", report.unchanged),
            ("removed", "yellow", report.removed),
            ("not readable", "red", report.failed),
        )
        if files
    ]
    if report.ignored:
        parts.append(f"[dim]{report.ignored} of other kinds[/]")
    out.print(f"Files: {', '.join(parts) or 'none to index'}")
    for file, reason in report.failed.items():
        out.print(f"  [red]{escape(shown_path(file))}[/]: {escape(reason)}")
    out.print(f"Passages: {index.count():,} in {escape(shown_path(index.directory))}")
