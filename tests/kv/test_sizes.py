"""Sizes as people write them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from grit_integrations.errors import OptionError
from grit_integrations.kv.sizes import format_size, parse_size


@given(st.integers(0, 10**15), st.sampled_from(["", "B", "kB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB"]))
def test_sizes_are_exact(number: int, unit: str) -> None:
    power = "BKMGT".index((unit or "B")[0].upper())
    base = 1024 if "i" in unit else 1000
    assert parse_size(f"{number}{unit}") == parse_size(f" {number} {unit.lower()} ") == number * base**power
    assert parse_size(number) == number


@given(st.one_of(st.text(), st.integers(max_value=-1), st.booleans(), st.none(), st.floats()))
def test_other_sizes_are_refused_or_read(value: object) -> None:
    try:
        assert parse_size(value) >= 0  # type: ignore[arg-type]
    except OptionError as error:
        assert "512MB" in str(error)


def test_sizes_for_people() -> None:
    assert [format_size(size) for size in (0, 999, 98_307_384, 1.5e9, 2e12)] == [
        "0 B",
        "999 B",
        "98.3 MB",
        "1.5 GB",
        "2.0 TB",
    ]
    assert parse_size("1.5GiB") == 3 * 2**29 and parse_size("0.5 kB") == 500
