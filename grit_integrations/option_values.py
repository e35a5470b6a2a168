"""What the value of an option may be: a finite number, a count, and the complaint that names what else was found."""

from __future__ import annotations

import math

from grit_integrations.errors import OptionError


def is_number(value: object) -> bool:
    """Return whether `value` is a finite number; a truth value is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: object, least: int) -> bool:
    """Return whether `value` is a whole number from `least` up; a truth value is none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check(valid: bool, name: str, found: object, wanted: str) -> None:
    """Refuse what was found unless it is valid.

    Raises:
        OptionError: it names the option, what was found and what was wanted.
    """
    if not valid:
        raise OptionError(f"{name}={found!r} is not possible. It must be {wanted}.")
