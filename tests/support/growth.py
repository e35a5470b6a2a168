"""How the time of some work grows with its input."""

from __future__ import annotations

import time
from collections.abc import Callable

FACTOR = 8  # how much larger the large input is


def assert_linear(work: Callable[[str], object], shape: Callable[[int], str], size: int) -> None:
    """Assert that an input of 8 times the size takes at most 24 times as long: 8 is linear, 64 quadratic.

    A quarter of a second on top keeps noise out where the small input takes next to nothing.
    """
    small, large = (_seconds(work, shape(length)) for length in (size, size * FACTOR))
    assert large <= 3 * FACTOR * small + 0.25, f"{size:,} characters {small:.3f} s, 8 times as many {large:.3f} s"


def _seconds(work: Callable[[str], object], text: str) -> float:
    def once() -> float:
        began = time.process_time()
        work(text)
        return time.process_time() - began

    return min(once(), once())
