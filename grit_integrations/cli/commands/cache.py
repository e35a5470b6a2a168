"""`grit cache`: what a KV cache holds, whether it is whole, and deleting. None loads a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from grit_integrations.cli.amounts import counted, disk_size
from grit_integrations.cli.command_group import GritGroup, examples
from grit_integrations.cli.command_options import DEFAULT_STORE, DebugOption, StoreOption
from grit_integrations.cli.console import console, is_terminal, print_facts, shown_path
from grit_integrations.errors import OptionError

if TYPE_CHECKING:
    from grit_integrations.kv.store.store import KVCacheStore

cache_app = typer.Typer(
    name="cache",
    cls=GritGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Look after an index's KV cache: what the model has read of its passages and need not read again.",
    epilog="It is filled by  [bold cyan]grit index PATH... --caching doc[/]",
)


@cache_app.command(epilog=examples("grit cache stats", "grit cache stats --store ~/indexes/docs --json"))
def stats(
    *,
    store: StoreOption = DEFAULT_STORE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, sizes in bytes.")] = False,
    debug: DebugOption = False,
) -> None:
    """Show how many blocks there are, what room they take, and of which model they are."""
    from grit_integrations.cli.index_cache import existing_cache

    with existing_cache(store) as kv:
        facts = _facts(store, kv)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    print_facts(_shown(facts))


@cache_app.command(epilog=examples("grit cache verify", "grit cache verify --store ~/indexes/docs"))
def verify(*, store: StoreOption = DEFAULT_STORE, debug: DebugOption = False) -> None:
    """Read every block and compare its checksum; bad ones go to quarantine and are computed again when needed.

    Exits with 1 if there was a bad one.
    """
    from grit_integrations.cli.cache_settings import mark_unfilled
    from grit_integrations.cli.index_cache import existing_cache

    with existing_cache(store) as kv:
        found = kv.verify()
        bad = kv.stats().quarantined  # also what opening it has found
    if bad or found.missing:
        mark_unfilled(store)
    parts = [f"[green]{found.intact:,} intact[/]"]
    parts += [f"[red]{bad:,} quarantined[/]"] if bad else []
    parts += [f"[yellow]{found.missing:,} missing[/]"] if found.missing else []
    parts += [f"{found.adopted:,} found again"] if found.adopted else []
    console().print(f"Blocks: {', '.join(parts)}")
    if bad:
        console().print("[dim]Quarantined blocks are never used. grit index computes them again.[/]")
    raise typer.Exit(1 if bad else 0)


@cache_app.command(epilog=examples("grit cache clear", "grit cache clear --store ~/indexes/docs --yes"))
def clear(
    *,
    store: StoreOption = DEFAULT_STORE,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    debug: DebugOption = False,
) -> None:
    """Delete all blocks and the quarantine. The index itself stays as it is."""
    from grit_integrations.cli.cache_settings import mark_unfilled
    from grit_integrations.cli.index_cache import existing_cache

    with existing_cache(store) as kv:
        if not yes:
            _confirm(store, kv)
        count = kv.clear()
    mark_unfilled(store)
    console().print(f"Deleted {counted(count, 'block')}.")


@cache_app.command(
    epilog=examples(
        "grit cache delete 03f1c2…   [dim]# the key of a block, as its file is named[/]",
        "grit cache delete --namespace tenant-7",
    )
)
def delete(
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="KEY...", help="Keys of blocks.", show_default=False)
    ] = None,
    *,
    namespace: Annotated[
        str | None, typer.Option("--namespace", metavar="NAME", help="Delete all of this namespace instead.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    debug: DebugOption = False,
) -> None:
    """Delete some blocks: those of keys, or those of a namespace."""
    from grit_integrations.cli.cache_settings import mark_unfilled
    from grit_integrations.cli.index_cache import existing_cache

    if bool(keys) == (namespace is not None):
        raise OptionError("Name what to delete: KEY... or --namespace NAME, one of them. grit cache clear deletes all.")
    with existing_cache(store) as kv:
        count = kv.delete(keys) if keys else kv.delete(namespace=namespace)
    if count:
        mark_unfilled(store)
    without = len(set(keys or ())) - count
    note = f" [dim]{counted(without, 'key')} had none.[/]" if keys and without else ""
    console().print(f"Deleted {counted(count, 'block')}.{note}")


def _confirm(store: Path, kv: KVCacheStore) -> None:
    """Ask before everything goes; without anybody to ask, refuse."""
    if not is_terminal():
        raise OptionError("There is no terminal to ask on before everything is deleted. Give --yes.")
    held = kv.stats()
    place = shown_path(store)
    typer.confirm(f"Delete {counted(held.blocks, 'block')} ({disk_size(held.bytes)}) of {place}?", abort=True)


def _facts(store: Path, kv: KVCacheStore) -> dict[str, Any]:
    """Return what there is to know about a KV cache, sizes in bytes."""
    from grit_integrations.cli.cache_settings import cache_directory, read_settings
    from grit_integrations.ingest.index_card import read_card

    held, settings, card = kv.stats(), read_settings(store), read_card(store)
    assert card is not None
    folder = cache_directory(store)
    aside = folder / "quarantine"
    return {
        "folder": str(folder),
        "blocks": held.blocks,
        "bytes": held.bytes,
        "max_bytes": held.max_bytes,
        "tokens": held.tokens,
        "bytes_per_token": round(held.bytes / held.tokens) if held.tokens else None,
        "caching": settings.caching,
        "precision": settings.precision,
        "model": card["origin"]["model"],
        "fingerprint": card["origin"]["fingerprint"],
        "namespaces": {name: {"blocks": n, "bytes": size} for name, (n, size) in sorted(held.namespaces.items())},
        "quarantined": sum(1 for _ in aside.iterdir()) if aside.is_dir() else 0,
    }


def _shown(facts: dict[str, Any]) -> dict[str, str]:
    """Return the rows of the table for people."""
    share = 100 * facts["bytes"] / max(facts["max_bytes"], 1)
    tokens = f"{facts['tokens']:,}"
    if facts["bytes_per_token"]:
        tokens += f" ({facts['bytes_per_token']:,} bytes each)"
    namespaces = [
        f"{name or '(without)'}: {counted(held['blocks'], 'block')}, {disk_size(held['bytes'])}"
        for name, held in facts["namespaces"].items()
    ]
    return {
        "Folder": shown_path(facts["folder"]),
        "Blocks": f"{facts['blocks']:,}",
        "Size": f"{disk_size(facts['bytes'])} of {disk_size(facts['max_bytes'])} ({share:.1f} %)",
        "Tokens": tokens,
        "Caching": facts["caching"],
        "Precision": facts["precision"],
        "Model": f"{facts['model']} ({facts['fingerprint']})",
        "Namespaces": "\n".join(namespaces) if facts["namespaces"].keys() - {""} else "none",
        "Quarantined": f"{facts['quarantined']:,}",
    }
