"""Whatever is in a checkpoint's or a store's files, the answer is a result or one of our errors. Random weights.

`make extended` fuzzes the same targets by coverage, for minutes.
"""

from __future__ import annotations

from fuzz_targets import checkpoint_case, store_case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CASES = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
data = st.binary(max_size=120)


@CASES
@given(data)
def test_a_damaged_checkpoint_is_used_or_refused(data: bytes) -> None:
    assert checkpoint_case(data)


def test_some_are_used_and_some_refused() -> None:
    """The cases reach both ends, so neither a check that refuses all nor one that sees nothing would pass."""
    results = {checkpoint_case(bytes([index, kind, kind, 0, 3])) for index in range(12) for kind in range(6)}
    assert {"used", "ModelLoadError"} <= results


@CASES
@given(data)
def test_a_damaged_store_gives_its_blocks_or_none(data: bytes) -> None:
    store_case(data)
