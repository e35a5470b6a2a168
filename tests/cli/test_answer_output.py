"""How an answer looks: quotes, and the line about the KV cache."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from grit_integrations.cli.answer_output import print_quote, print_reuse
from grit_integrations.options import Caching
from grit_integrations.results import CacheReport, Generation, Quote, Timings, Usage


def test_a_quote_is_on_lines_of_the_width() -> None:
    out = Console(width=60, file=io.StringIO())
    print_quote(out, Quote("The heart pumps\nblood. " + "It never rests. " * 9, 1, 0, 30, -0.5), indent=4)
    lines = out.file.getvalue().splitlines()
    assert lines[0].startswith("    “The heart pumps blood. It")
    assert " ".join(map(str.strip, lines)).endswith("never rests.” [2]")
    assert max(map(len, lines)) <= 60
    assert all(line.startswith("    ") for line in lines)


def generation(mode: Caching, read: int, **report: object) -> Generation:
    timings = Timings(queue=0.0, load=0.0, prefill=0.0, time_to_first_token=0.124, decode=0.0)
    return Generation(
        "x",
        (1,),
        "stop",
        Usage(1251, 1, read),
        timings,
        CacheReport(mode, **report),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("written", "line"),
    [
        (generation("off", 0), ""),
        (
            generation("doc", 1204, seconds_saved=1.93),
            "cache: 1,204 of 1,251 prompt tokens read (96 %) · first token after 0.12 s · 1.9 s saved\n",
        ),
        (generation("doc", 0), "cache: 0 of 1,251 prompt tokens read · first token after 0.12 s\n"),
        (
            generation("prefix", 3, seconds_saved=-1.0, declined=("slow",)),
            "cache: 3 of 1,251 prompt tokens read (0 %) · first token after 0.12 s · 1 block computed, which is faster "
            "here\n",
        ),
    ],
)
def test_the_line_about_reuse(written: Generation, line: str) -> None:
    out = Console(width=200, file=io.StringIO())
    print_reuse(out, written)
    assert out.file.getvalue() == line  # type: ignore[attr-defined]
