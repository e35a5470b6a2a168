"""The KV cache beside an index: who opens and closes it, filling it, and what is printed about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from grit_integrations.cli.amounts import counted, disk_size
from grit_integrations.cli.cache_settings import CacheSettings, cache_directory, read_settings
from grit_integrations.cli.progress_bars import caching_bar
from grit_integrations.errors import CacheError, IngestError
from grit_integrations.ingest import IndexReport, PassageIndex
from grit_integrations.ingest.index_card import read_card
from grit_integrations.kv.policy import CachePolicy
from grit_integrations.kv.store.store import KVCacheStore
from grit_integrations.options import Caching

# Every passage of an index has its block, however short, so that those without one are those still to be read.
_POLICY = CachePolicy(min_tokens=0)

_BATCH = 32  # passages between two looks at how full the cache is
_LEFT = "What was kept before stays on disk until it is evicted; grit cache clear deletes it."


@contextmanager
def model_cache(
    index: PassageIndex, caching: Caching, *, writing: bool = False
) -> Iterator[tuple[PassageIndex, KVCacheStore | None]]:
    """Give the index with another handle on its model, that caches in a mode; close the KV cache at the end.

    One that is only written has no RAM tier, so that its model sees what is on disk.
    An index whose caching is off has no folder for it, and none is made: a mode asked for once keeps blocks in memory.
    """
    folder = cache_directory(index.directory)
    settings = read_settings(index.directory)
    grit = index.model.with_options(caching=caching, cache_policy=_POLICY)
    if caching == "off" or (settings.caching == "off" and not folder.is_dir()):
        yield index.with_model(grit), None
        return
    ram = 0 if writing else "512MB"
    with KVCacheStore(folder, max_bytes=settings.size, ram_bytes=ram, precision=settings.precision) as kv:
        yield index.with_model(grit.with_options(kv_store=kv)), kv


@contextmanager
def existing_cache(store: Path) -> Iterator[KVCacheStore]:
    """Open the KV cache of an index without its model, and close it at the end.

    Raises:
        IngestError: there is no index.
        CacheError: it has no KV cache, or one that cannot be opened: nobody is told then that it is empty or whole.
    """
    if read_card(store) is None:
        raise IngestError(f"There is no store at {store}. Make one first: grit index PATH... --caching doc")
    settings, folder = read_settings(store), cache_directory(store)
    if not folder.is_dir():
        raise CacheError(
            f"The store at {store} has no KV cache (caching is {settings.caching}). "
            "Fill one with: grit index PATH... --caching doc"
        )
    with KVCacheStore(folder, max_bytes=settings.size, precision=settings.precision, strict=True) as kv:
        yield kv


def fill(out: Console, index: PassageIndex, kv: KVCacheStore, report: IndexReport, *, filled: bool) -> None:
    """Read the passages that have no block yet, as far as there is room; if all had one before, only new passages."""
    changed = [*report.added, *report.changed]
    whole = not filled or not kv.stats().blocks
    if not whole and not changed:
        return
    kv.flush()
    texts = index.texts(None if whole else changed)
    missing = _missing(index, texts)
    if missing and not _read(out, index, kv, missing) and (left := len(_missing(index, texts))):
        note = f"The KV cache is full: {counted(left, 'passage')} not kept."
        out.print(f"[yellow]{note}[/] A larger --cache-size keeps more.")


def _missing(index: PassageIndex, texts: Sequence[str]) -> list[str]:
    return [text for text, stored in zip(texts, index.model.stored(texts), strict=True) if not stored]


def _read(out: Console, index: PassageIndex, kv: KVCacheStore, texts: Sequence[str]) -> bool:
    """Read passages into the KV cache until it is full; return whether all had room."""
    done = 0
    with caching_bar(out, len(texts)) as show:
        while done < len(texts) and (count := min(_BATCH, _room(kv))):
            batch = texts[done : done + count]
            index.model.cache_documents(batch, progress=False)
            kv.flush()
            done += len(batch)
            show(len(batch))
    return done == len(texts) and not kv.stats().evicted


def _room(kv: KVCacheStore) -> int:
    """Return how many more blocks of average size fit; one if there is no average yet."""
    stats = kv.stats()
    if not stats.blocks:
        return int(not stats.evicted and not stats.too_large)
    return max(stats.max_bytes - stats.bytes, 0) * stats.blocks // max(stats.bytes, 1)


def print_cache(out: Console, settings: CacheSettings, kv: KVCacheStore) -> None:
    """Print what a KV cache holds, in one line."""
    stats = kv.stats()
    out.print(
        f"KV cache: {counted(stats.blocks, 'block')}, {disk_size(stats.bytes)} of {disk_size(stats.max_bytes)}, "
        f"{settings.caching}, {settings.precision}"
    )


def print_changes(out: Console, old: CacheSettings, new: CacheSettings) -> None:
    """Say what other settings mean for an index that exists."""
    pairs = [("caching", old.caching, new.caching), ("precision", old.precision, new.precision)]
    parts = [f"{name} {to} (was {was})" for name, was, to in pairs if was != to]
    if old.size != new.size:
        parts.append(f"up to {disk_size(new.size)} (was {disk_size(old.size)})")
    if not parts:
        return
    stale = old.caching != "off" and (old.caching, old.precision) != (new.caching, new.precision)
    out.print(f"[dim]KV cache from now on: {', '.join(parts)}.{' ' + _LEFT if stale else ''}[/]")
