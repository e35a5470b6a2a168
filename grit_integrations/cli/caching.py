"""The KV cache beside an index: what is remembered about it, who opens and closes it, and filling it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from grit_integrations.cli.output import caching_bar, counted, disk_size
from grit_integrations.errors import CacheError, IngestError
from grit_integrations.ingest import IndexReport, PassageIndex
from grit_integrations.ingest.index_card import read_card, write_card
from grit_integrations.kv.policy import CachePolicy
from grit_integrations.kv.sizes import parse_size
from grit_integrations.kv.store.store import KVCacheStore
from grit_integrations.options import CACHINGS, PRECISIONS, Caching, Precision

# Every passage of an index has its block, however short, so that those without one are those still to be read.
POLICY = CachePolicy(min_tokens=0)

_ENTRY = "kv_cache"  # in store.json
_BATCH = 32  # passages between two looks at how full the cache is
_LEFT = "What was kept before stays on disk until it is evicted; grit cache clear deletes it."


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """What an index remembers about its KV cache.

    Attributes:
        caching: the mode in which passages are kept and questions answered.
        precision: how blocks are stored.
        size: bound of the files in bytes.
        filled: whether every passage was given its block; `False` also while an index is written.
    """

    caching: Caching = "off"
    precision: Precision = "native"
    size: int = 10_000_000_000
    filled: bool = False

    def changed(self, caching: Caching | None, precision: Precision | None, size: str | None) -> CacheSettings:
        """Return these settings with what a command names put over them.

        Raises:
            OptionError: not a size.
        """
        new = replace(
            self,
            caching=caching or self.caching,
            precision=precision or self.precision,
            size=self.size if size is None else parse_size(size),
        )
        return new if new == self else replace(new, filled=False)


def cache_directory(store: Path) -> Path:
    """Return where the KV cache of an index lies."""
    return store / "kv"


def read_settings(store: Path) -> CacheSettings:
    """Return what an index remembers; the defaults if there is no index or it has no KV cache.

    Raises:
        IngestError: `store.json` cannot be read.
    """
    entry: Any = (read_card(store) or {}).get(_ENTRY, {})
    try:
        settings = CacheSettings(**entry)
        known = settings.caching in CACHINGS and settings.precision in PRECISIONS
        if not known or parse_size(settings.size) != settings.size:
            raise ValueError(f"{entry} is not possible")
    except (TypeError, ValueError) as error:
        raise IngestError(
            f"{store / 'store.json'} does not say how the KV cache is kept ({error}). Remove its {_ENTRY!r}."
        ) from error
    return settings


def write_settings(store: Path, settings: CacheSettings) -> None:
    """Remember settings with an index."""
    card = read_card(store)
    assert card is not None
    if card.get(_ENTRY) != asdict(settings):
        write_card(store, {**card, _ENTRY: asdict(settings)})


@contextmanager
def model_cache(
    store: PassageIndex, caching: Caching, *, writing: bool = False
) -> Iterator[tuple[PassageIndex, KVCacheStore | None]]:
    """Give an index whose model has its KV cache, in a mode; close the cache at the end, whatever happens.

    One that is only written has no RAM tier, so that its model sees what is on disk.
    An index whose caching is off has no folder for it, and none is made: a mode asked for once keeps blocks in memory.
    """
    grit, folder = store.model, cache_directory(store.directory)
    settings = read_settings(store.directory)
    grit = grit.with_options(caching=caching, cache_policy=POLICY)
    if caching == "off" or (settings.caching == "off" and not folder.is_dir()):
        yield store.with_model(grit), None
        return
    ram = 0 if writing else "512MB"
    with KVCacheStore(folder, max_bytes=settings.size, ram_bytes=ram, precision=settings.precision) as kv:
        yield store.with_model(grit.with_options(kv_store=kv)), kv


@contextmanager
def existing_cache(store: Path) -> Iterator[KVCacheStore]:
    """Open the KV cache of an index without its model, and close it at the end.

    Raises:
        IngestError: there is no index.
        CacheError: it has no KV cache.
    """
    if read_card(store) is None:
        raise IngestError(f"There is no store at {store}. Make one first: grit index PATH... --caching doc")
    settings, folder = read_settings(store), cache_directory(store)
    if not folder.is_dir():
        raise CacheError(
            f"The store at {store} has no KV cache (caching is {settings.caching}). "
            "Fill one with: grit index PATH... --caching doc"
        )
    with KVCacheStore(folder, max_bytes=settings.size, precision=settings.precision) as kv:
        yield kv


def needs_filling(store: Path) -> None:
    """Note that passages may lack their blocks, so that the next `grit index` looks for them."""
    write_settings(store, replace(read_settings(store), filled=False))


def fill(out: Console, store: PassageIndex, kv: KVCacheStore, report: IndexReport, *, filled: bool) -> None:
    """Read the passages that have no block yet, as far as there is room; if all had one before, only new passages."""
    changed = [*report.added, *report.changed]
    whole = not filled or not kv.stats().blocks
    if not whole and not changed:
        return
    kv.flush()
    texts = store.texts(None if whole else changed)
    missing = _missing(store, texts)
    if missing and not _read(out, store, kv, missing) and (left := len(_missing(store, texts))):
        note = f"The KV cache is full: {counted(left, 'passage')} not kept."
        out.print(f"[yellow]{note}[/] A larger --cache-size keeps more.")


def _missing(store: PassageIndex, texts: Sequence[str]) -> list[str]:
    return [text for text, stored in zip(texts, store.model.stored(texts), strict=True) if not stored]


def _read(out: Console, store: PassageIndex, kv: KVCacheStore, texts: Sequence[str]) -> bool:
    """Read passages into the KV cache until it is full; return whether all had room."""
    done = 0
    with caching_bar(out, len(texts)) as show:
        while done < len(texts) and (count := min(_BATCH, _room(kv))):
            batch = texts[done : done + count]
            store.model.cache_documents(batch, progress=False)
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
