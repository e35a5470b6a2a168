"""Where a quote may be cut."""

from __future__ import annotations

import itertools
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_texts import texts

from grit_integrations.quoting.words import word_boundaries


def cut(text: str) -> tuple[str, str]:
    """Show starts and ends: `[` in front of each start, `]` behind each end."""
    found = word_boundaries(text)
    starts = "".join(("[" if index in found.starts else "") + character for index, character in enumerate(text))
    ends = "".join(character + ("]" if index + 1 in found.ends else "") for index, character in enumerate(text))
    return starts, ends


@pytest.mark.parametrize(
    ("text", "starts", "ends"),
    [
        ("The heart.", "[The [heart.", "The] heart].]"),
        ("3.8 1,000 10:30 -5 (+5)", "[3.8 [1,000 [10:30 [-5 [([+5)", "3.8] 1,000] 10:30] -5] (+5])]"),
        ("don't Newton's dogs' ’90s", "[don't [Newton's [dogs' [’[90s", "don't] Newton]'s] dogs]'] ’90s]"),
        ("“Hi,” (she) – so: it", "[“[Hi,” [([she) – [so: [it", "“Hi],”] (she])] – so]: it]"),
        ("well-known a_b H2O", "[well-[known [a_b [H2O", "well]-known] a_b] H2O]"),
        ("5€ $5 #1 .NET", "[5[€ [$[5 [#[1 [.[NET", "5]€] $]5] #1] .NET]"),
        ("e\u0301a na\u0308her", "[e\u0301a [na\u0308her", "e\u0301a] na\u0308her]"),
        ("👩\u200d💻👍🏽🇩🇪", "[👩\u200d💻[👍🏽[🇩🇪", "👩\u200d💻]👍🏽]🇩🇪]"),
        ("the\u200d end\u200d.", "[the\u200d [end\u200d.", "the\u200d] end\u200d].]"),
        ("你好。コー", "[你[好。[コー", "你]好]。]コー]"),
        ("3月 เกา", "[3[月 [เก[า", "3]月] เก]า]"),
        ("한국어 עברית", "[한국어 [עברית", "한국어] עברית]"),
        ("a\u200bb\ufeffc", "[a\u200b[b\ufeff[c", "a]\u200bb]\ufeffc]"),
        ("... — !?", "... — !?", "... — !?"),
        ("\u0301", "\u0301", "\u0301"),
        ("", "", ""),
    ],
)
def test_boundaries(text: str, starts: str, ends: str) -> None:
    assert cut(text) == (starts, ends)


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(texts, st.text(max_size=20)))
def test_every_quote_holds_content_and_cuts_no_character(text: str) -> None:
    found = word_boundaries(text)
    assert list(found.starts) == sorted(set(found.starts)) and list(found.ends) == sorted(set(found.ends))
    assert all(any(end > start for end in found.ends) for start in found.starts)
    for start, end in itertools.product(found.starts, found.ends):
        quote = text[start:end]
        if start >= end:
            continue
        kinds = [unicodedata.category(character) for character in quote]
        assert quote == quote.strip() and any(kind[0] in "LNS" or kind in ("Pc", "Co", "Cn") for kind in kinds)
        assert unicodedata.category(quote[0])[0] != "M" and (end == len(text) or unicodedata.combining(text[end]) == 0)
