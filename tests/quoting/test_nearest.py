"""Quotes: sentences with exact places, nearest first."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grit_integrations import EmptyTextError, GritLM
from grit_integrations.quoting.nearest import best_quotes
from grit_integrations.quoting.sentences import pieces, sentences


def cut(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The heart pumps. The stars shine brightly.", ["The heart pumps.", "The stars shine brightly."]),
        ("Dr. No saw Mt. Fuji at 3.5 km. He left for good.", ["Dr. No saw Mt. Fuji at 3.5 km.", "He left for good."]),
        ("The U.S. coast has high tides! J. R. Smith measured them.", None),
        ("“Is it really so?” he asked. “Yes, it is.” Then they left.", None),
        ("The price is e.g. five (i.e. not six) dollars. It rose vs. last year.", None),
        ("# A long enough heading\n\nFirst point made here.\n\nSecond point made here", None),
        ("Three things count:\n- the first of them\n- the second of them\n1. a third one", None),
        ("A line that\nwraps in the middle. And another line here.", None),
        ("See below. Yes. A full sentence stays.", ["A full sentence stays."]),
        ("Wait... for it to end. 1803 was the year.", ["Wait... for it to end.", "1803 was the year."]),
        ("", []),
        (" \n\n ", []),
    ],
)
def test_sentences(text: str, wanted: list[str] | None) -> None:
    expected = {
        "The U.S. coast has high tides! J. R. Smith measured them.": [
            "The U.S. coast has high tides!",
            "J. R. Smith measured them.",
        ],
        "“Is it really so?” he asked. “Yes, it is.” Then they left.": [
            "“Is it really so?” he asked.",
            "“Yes, it is.”",
            "Then they left.",
        ],
        "The price is e.g. five (i.e. not six) dollars. It rose vs. last year.": [
            "The price is e.g. five (i.e. not six) dollars.",
            "It rose vs. last year.",
        ],
        "# A long enough heading\n\nFirst point made here.\n\nSecond point made here": [
            "First point made here.",
            "Second point made here",
        ],
        "Three things count:\n- the first of them\n- the second of them\n1. a third one": [
            "Three things count:",
            "- the first of them",
            "- the second of them",
            "1. a third one",
        ],
        "A line that\nwraps in the middle. And another line here.": [
            "A line that\nwraps in the middle.",
            "And another line here.",
        ],
    }
    assert cut(text) == (expected[text] if wanted is None else wanted)


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("ab A.!?\n\"”'#-1 "), max_size=200))
def test_spans_are_in_order_and_lose_no_long_run_of_words(text: str) -> None:
    spans = sentences(text)
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))
    assert all(text[start:end] == text[start:end].strip() for start, end in spans)


def test_quotes_have_exact_places(tiny: GritLM) -> None:
    passages = [
        "# Title here now\n\nThe heart pumps blood. It never stops beating.",
        "",
        "Stars shine by fusion alone.",
    ]
    quotes = best_quotes(tiny, "What pumps blood?", passages, limit=10, length=1)
    assert len(quotes) == 3
    assert all(passages[quote.document][quote.start : quote.end] == quote.text for quote in quotes)
    assert [quote.score for quote in quotes] == sorted((quote.score for quote in quotes), reverse=True)


def test_scores_are_cosines_plus_shared_words(tiny: GritLM) -> None:
    passages = ["The heart pumps blood.", "Stars shine by fusion."]
    question = "What pumps blood?"
    cosines = tiny.embed_documents(passages) @ tiny.embed_queries([question])[0]
    plain = {quote.text: quote.score for quote in best_quotes(tiny, question, passages, lexical_weight=0)}
    assert plain == pytest.approx(dict(zip(passages, cosines.tolist(), strict=True)), abs=1e-5)
    blended = {quote.text: quote.score for quote in best_quotes(tiny, question, passages, lexical_weight=0.5)}
    assert blended[passages[0]] == pytest.approx(plain[passages[0]] + 0.5, abs=1e-5)  # both of the words that count
    assert blended[passages[1]] == pytest.approx(plain[passages[1]], abs=1e-5)


def test_repeated_sentences_count_once(tiny: GritLM) -> None:
    passages = ["The heart pumps blood. The heart pumps blood.", "The heart pumps blood."]
    quotes = best_quotes(tiny, "heart", passages, length=1)
    assert [(quote.document, quote.start) for quote in quotes] == [(0, 0)]


def test_pieces_do_not_overlap_and_stop_at_headings(tiny: GritLM) -> None:
    passage = "One is here now. Two is here now. Three is here now.\n\n## A heading\n\nFour is here now."
    cut = [passage[start:end] for start, end in pieces(passage, 2)]
    assert cut == ["One is here now. Two is here now.", "Two is here now. Three is here now.", "Four is here now."]
    quotes = best_quotes(tiny, "two", [passage], limit=9)
    assert len(quotes) == 2
    assert len(best_quotes(tiny, "two", [passage], limit=9, length=3)) == 2


def test_questions_are_no_answers(tiny: GritLM) -> None:
    passages = ["What pumps blood? The heart does it.", "Does anything pump blood?"]
    texts = [quote.text for quote in best_quotes(tiny, "What pumps blood?", passages, length=1)]
    assert texts[0] == "The heart does it."
    assert len(texts) == 3


def test_nothing_to_quote(tiny: GritLM) -> None:
    assert best_quotes(tiny, "heart", []) == []
    assert best_quotes(tiny, "heart", [" ", "# Only a heading here"]) == []
    assert best_quotes(tiny, "heart", ["The heart pumps blood."], limit=0) == []
    with pytest.raises(EmptyTextError):
        best_quotes(tiny, " ", ["The heart pumps blood."])


def test_a_sentence_longer_than_the_window_is_still_ranked(tiny: GritLM) -> None:
    quotes = best_quotes(tiny, "heart", ["word " * 6000 + "end.", "The heart pumps blood."])
    assert len(quotes) == 2


def test_the_right_sentence_is_found(mini: GritLM) -> None:
    passages = [
        "The Moon orbits Earth. Its distance grows by 3.8 centimeters per year. Apollo 11 left mirrors there.",
        "Beaver hats were popular apparel. Silk hats became the rage in the 1850s.",
    ]
    assert (
        "3.8 centimeters" in best_quotes(mini, "How much does the Moon's distance grow every year?", passages)[0].text
    )
    assert "Silk hats" in best_quotes(mini, "When did hats of silk become the rage?", passages)[0].text
