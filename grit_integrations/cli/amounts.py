"""Counts and sizes as a person reads them."""

from __future__ import annotations

from grit_integrations.kv.sizes import format_size


def counted(count: int, what: str) -> str:
    """Return a number and what is counted, in the plural unless there is one.

    >>> counted(1, "block"), counted(1200, "block")
    ('1 block', '1,200 blocks')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def disk_size(count: int) -> str:
    """Return bytes on disk in the decimal units that `--cache-size` takes.

    >>> disk_size(10_000_000_000)
    '10 GB'
    """
    return format_size(count).replace(".0 ", " ")


def byte_size(count: float) -> str:
    """Return a number of bytes as a person reads it.

    >>> byte_size(34_743_296)
    '33.1 MiB'
    """
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
