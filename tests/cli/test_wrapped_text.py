"""Streamed text in lines of the console's width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from grit_integrations.cli.wrapped_text import WrappedStream


@pytest.mark.parametrize(
    "pieces",
    [["The he", "art pumps", " blood", ".\n\nIt bea", "ts."], list("The heart pumps blood.\n\nIt beats."), ["x" * 50]],
)
def test_streamed_text_wraps_between_words(pieces: list[str]) -> None:
    out = Console(width=16, file=io.StringIO())
    shown = WrappedStream(out, indent=2)
    for piece in pieces:
        shown.add(piece)
    shown.end()
    text = out.file.getvalue()
    if len(pieces) == 1:
        assert text.split() == ["x" * 14] * 3 + ["x" * 8]
    else:
        assert [line.rstrip() for line in text.splitlines()] == ["  The heart", "  pumps blood.", "", "  It beats."]


def test_streamed_text_wraps_wide_characters() -> None:
    out = Console(width=8, file=io.StringIO())
    shown = WrappedStream(out, indent=1)
    shown.add("星は融合で輝く。")
    shown.end()
    assert out.file.getvalue().split() == ["星は融", "合で輝", "く。"]
