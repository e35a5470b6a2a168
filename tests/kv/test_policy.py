"""What is admitted, and when loading is declined."""

from __future__ import annotations

from typing import Any

import pytest

from grit_integrations.errors import OptionError
from grit_integrations.kv.policy import CachePolicy
from grit_integrations.kv.speeds import Speeds

_FAST_MODEL = Speeds(prefill=20_000.0, load=240e6)


def test_a_slow_disk_is_declined_with_both_times() -> None:
    reason = CachePolicy().decline_load(4_000, 98_300_000, _FAST_MODEL)
    assert reason == "reading 98.3 MB from disk would take 0.41 s, computing 4,000 tokens 0.20 s"


def test_a_fast_disk_is_read() -> None:
    assert CachePolicy().decline_load(4_000, 98_300_000, Speeds(prefill=20_000.0, load=3e9)) is None
    assert CachePolicy().decline_load(100, 100, Speeds(prefill=1.0, load=1.0)) is None  # equal


@pytest.mark.parametrize("speeds", [Speeds(), Speeds(prefill=1e9), Speeds(load=1.0)])
def test_what_is_not_measured_is_tried(speeds: Speeds) -> None:
    assert CachePolicy().decline_load(1, 10**12, speeds) is None


def test_always_and_never_do_not_measure() -> None:
    assert CachePolicy(break_even="always").decline_load(1, 10**12, _FAST_MODEL) is None
    assert "never" in str(CachePolicy(break_even="never").decline_load(10**6, 1, _FAST_MODEL))


@pytest.mark.parametrize(
    "wrong", [{"min_tokens": -1}, {"min_tokens": 1.5}, {"admit_after": True}, {"admit_after": "2"}, {"break_even": "x"}]
)
def test_wrong_values_are_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        CachePolicy(**wrong)
