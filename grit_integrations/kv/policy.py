"""CachePolicy: what is worth keeping, and when computing again is faster than reading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from grit_integrations.errors import OptionError
from grit_integrations.kv.sizes import format_size

if TYPE_CHECKING:
    from grit_integrations.kv.speeds import Speeds

BreakEven = Literal["auto", "always", "never"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """What to admit to a store, and when to load from its disk. Blocks in RAM are always used.

    Attributes:
        min_tokens: segments with fewer tokens are not worth a file.
        admit_after: how often a segment must have been missed before it is written.
        break_even: `"auto"` declines a load that measured speeds show to be slower than computing; `"always"` loads
            whatever is on the disk; `"never"` loads nothing from it.

    Raises:
        OptionError: a value that is out of range.
    """

    min_tokens: int = 32
    admit_after: int = 1
    break_even: BreakEven = "auto"

    def __post_init__(self) -> None:
        for name, least in (("min_tokens", 0), ("admit_after", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise OptionError(f"{name}={value!r} is not a count. Give a whole number, {least} or more.")
        if self.break_even not in get_args(BreakEven):
            options = ", ".join(get_args(BreakEven))
            raise OptionError(f"break_even={self.break_even!r} is unknown. Options are {options}.")

    def decline_load(self, tokens: int, disk_bytes: int, speeds: Speeds) -> str | None:
        """Return why `tokens` should be computed rather than read from the disk, or None to read them."""
        if self.break_even == "never":
            return "break_even='never': nothing is read from disk"
        if self.break_even == "always" or not speeds.prefill or not speeds.load:
            return None
        reading, computing = disk_bytes / speeds.load, tokens / speeds.prefill
        if reading <= computing:
            return None
        return (
            f"reading {format_size(disk_bytes)} from disk would take {reading:.2f} s, "
            f"computing {tokens:,} tokens {computing:.2f} s"
        )
