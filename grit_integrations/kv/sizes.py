"""Sizes in bytes, as people write them."""

from __future__ import annotations

import re
from decimal import Decimal

from grit_integrations.errors import OptionError

_PREFIXES = ("", "K", "M", "G", "T", "P")
_DECIMAL = {f"{prefix}B": 1000**power for power, prefix in enumerate(_PREFIXES)}
_BINARY = {f"{prefix}IB": 1024**power for power, prefix in enumerate(_PREFIXES) if prefix}
_UNITS = {"": 1} | _DECIMAL | _BINARY
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) *([A-Z]*)", re.IGNORECASE | re.ASCII)


def parse_size(size: int | str) -> int:
    """Return the bytes that `size` names: 20_000, "20GB" (10**9 each) or "1.5GiB" (2**30 each).

    Raises:
        OptionError: not a size, negative, or a unit that does not exist.
    """
    if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
        return size
    match = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    if match is None or match[2].upper() not in _UNITS:
        raise OptionError(
            f"{size!r} is not a size. Give a number of bytes, not negative, or a text such as '512MB' or '1.5GiB'."
        )
    return int(Decimal(match[1]) * _UNITS[match[2].upper()])


def format_size(size: float) -> str:
    """Return bytes for people, in decimal units: 98.3 MB."""
    if size < 1000:
        return f"{size:.0f} B"
    for prefix in "kMG":
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {prefix}B"
    return f"{size / 1000:.1f} TB"
