"""Where sentences begin and end, and that finding out takes time in proportion to the text."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from growth import assert_linear
from hostile_shapes import MARKDOWN, TEXT

from grit_integrations.quoting.sentences import pieces, sentences
from grit_integrations.quoting.words import word_boundaries


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It beats. It never rests at all. Why is that?!", ["It never rests at all.", "Why is that?!"]),
        ('He said "it beats fast." Then he left us.', ['He said "it beats fast."', "Then he left us."]),
        ("Wait for it... and there it is... Now it comes.", ["Wait for it... and there it is...", "Now it comes."]),
        ("Chapter one of it ....... 7\n\nIt begins ....1", ["Chapter one of it .......", "It begins ....1"]),
        (
            "One line here\n- first item here\n2) second item here",
            ["One line here", "- first item here", "2) second item here"],
        ),
    ],
)
def test_sentences(text: str, found: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text)] == found


SHAPES = TEXT | MARKDOWN


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_time_grows_with_the_text(shape: Callable[[int], str]) -> None:
    assert_linear(sentences, shape, 10_000)
    assert_linear(lambda text: pieces(text, 2), shape, 10_000)
    assert_linear(word_boundaries, shape, 10_000)
