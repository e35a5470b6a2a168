"""What a store does about faults: counts them, reports each kind once, raises if strict."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from grit_integrations.errors import CacheCorruptError, CacheFullError
from grit_integrations.kv.store.recovery import FAULTS, as_cache_error

if TYPE_CHECKING:
    from grit_integrations.kv.store.tiers import Tiers

_log = logging.getLogger(__name__)


class Recovery:
    """What a store does about faults. A damaged index is let go of in any case.

    Args:
        path: the store's folder, for messages.
        strict: raise what is otherwise recovered from.
    """

    def __init__(self, path: Path | None, *, strict: bool) -> None:
        self._path, self._strict = path, strict
        self._warned: set[str] = set()

    @contextmanager
    def raising(self, tiers: Tiers | None) -> Iterator[None]:
        """Raise any fault as CacheError."""
        try:
            yield
        except FAULTS as error:
            if tiers is not None:
                tiers.distrust(error)
            raise as_cache_error(error, self._path) from error

    @contextmanager
    def recovering(self, counter: str, tiers: Tiers | None) -> Iterator[None]:
        """Count and report a fault, and raise it only if strict. What is too large or corrupt was counted already."""
        try:
            yield
        except FAULTS as error:
            found = as_cache_error(error, self._path)
            if tiers is not None:
                tiers.distrust(error)
            if not isinstance(error, CacheCorruptError | CacheFullError):
                if tiers is not None:
                    tiers.tally.add(counter)
                if counter not in self._warned:
                    self._warned.add(counter)
                    _log.warning("%s", found)
            if self._strict:
                raise found from error
