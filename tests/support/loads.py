"""Which weights are read: a slow thing that adapters must not do for each request."""

from __future__ import annotations

from typing import Any

import pytest

from grit_integrations.engine import engine


def noted_loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that from now on gets the name of each checkpoint whose weights are read."""
    seen: list[str] = []
    load_weights = engine.load_weights

    def noting(checkpoint: Any, *args: Any, **options: Any) -> Any:
        seen.append(checkpoint.name)
        return load_weights(checkpoint, *args, **options)

    monkeypatch.setattr(engine, "load_weights", noting)
    return seen
