"""What the value of an option may be: a finite number, a count, and the complaint that names what else was found."""

from __future__ import annotations

import math

from grit_integrations.errors import OptionError


def is_number(value: object) -> bool:
    """Return whether `value` is a finite number that a float can hold; a truth value is none."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of more than 308 digits
        return False


def is_between(value: object, least: float, most: float) -> bool:
    """Return whether `value` is a number from `least` to `most`."""
    return isinstance(value, int | float) and is_number(value) and least <= value <= most


def is_count(value: object, least: int, most: float = math.inf) -> bool:
    """Return whether `value` is a whole number from `least` to `most`; a truth value is none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def check(valid: bool, name: str, found: object, wanted: str) -> None:
    """Refuse what was found unless it is valid.

    Raises:
        OptionError: it names the option, what was found and what was wanted.
    """
    if not valid:
        raise OptionError(f"{name}={found!r} is not possible. It must be {wanted}.")
