"""One kind of progress bar for work that takes over a few seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

_DELAY = 2.0  # seconds before a bar appears


def progress_bar(
    items: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    done: int = 0,
    desc: str,
    unit: str,
    shown: bool | None,
    leave: bool = True,
) -> tqdm[Any]:
    """Return a bar that appears when the work takes longer than two seconds.

    Args:
        items: what is worked through, if the bar is to be iterated over.
        total: how many there are, if it is updated instead.
        done: how many of them were worked through before.
        desc: what is done.
        unit: to what.
        shown: `None` shows it on a terminal only.
        leave: whether the finished bar stays there.
    """
    hidden = sys.stderr is None or (None if shown is None else not shown)  # a service may have no stderr
    return tqdm(items, total=total, initial=done, desc=desc, unit=unit, disable=hidden, leave=leave, delay=_DELAY)
