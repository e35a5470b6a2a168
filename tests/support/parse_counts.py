"""Counts how often prompts are laid out, planned and merged, and how often each text is checked."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from grit_integrations.prompts import formats, requests


def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often prompts are laid out, planned and merged, and how often each text is checked."""
    calls: Counter[str] = Counter()

    def count(module: Any, name: str, label: Any) -> None:
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **o: (calls.update([label(*a)]), original(*a, **o))[1])

    for name in ("lay_out", "plan_prompt", "merge_turns"):
        count(requests, name, lambda *_, name=name: name)
    for module in (formats, requests):
        count(module, "check_characters", lambda text, _: f"check {text[:12]}")
    count(requests, "check_text", lambda text, _: f"check_text {text[:12]}")
    return calls
