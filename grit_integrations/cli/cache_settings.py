"""What an index remembers about the KV cache beside it, in `store.json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from grit_integrations.errors import IngestError
from grit_integrations.ingest.index_card import read_card, write_card
from grit_integrations.kv.sizes import parse_size
from grit_integrations.options import CACHINGS, PRECISIONS, Caching, Precision

_ENTRY = "kv_cache"  # in store.json


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


def mark_unfilled(store: Path) -> None:
    """Note that passages may lack their blocks, so that the next `grit index` looks for them."""
    write_settings(store, replace(read_settings(store), filled=False))
