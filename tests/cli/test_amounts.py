"""Counts and sizes."""

from __future__ import annotations

from grit_integrations.cli.amounts import byte_size, counted, disk_size


def test_counts_and_sizes() -> None:
    assert [counted(n, "block") for n in (0, 1, 1200)] == ["0 blocks", "1 block", "1,200 blocks"]
    assert [disk_size(n) for n in (5, 48_100_000, 10**10)] == ["5 B", "48.1 MB", "10 GB"]


def test_byte_sizes() -> None:
    assert [byte_size(n) for n in (0, 1023, 1024, 5 << 20, 3 << 30)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "5.0 MiB",
        "3.0 GiB",
    ]
