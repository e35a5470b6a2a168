"""Documents in prompts: the fast search equals a naive one, and what is remembered is bounded and in order."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from grit_integrations.prompts.verbatim import RecentDocuments, Span, find_verbatim

LEAST = 32  # characters
MOST_PLACES = 64  # of one document in one text that are looked at

# Few words, some of them parts of others, some several bytes long: documents overlap, repeat and begin alike.
words = st.sampled_from(["heart", "ear", "blood", "ü", "über", "你好", "😀", "a", "aa", "\n", "é", "12.5 %", "stars"])
phrases = st.lists(words, min_size=1, max_size=14).map(" ".join)


@st.composite
def texts_with_documents(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A text, and candidates of which some stand in it: whole, cut, blank at the ends, twice, inside each other."""
    text = draw(st.lists(phrases, min_size=1, max_size=6).map("\n\n".join))
    candidates = draw(st.lists(phrases, max_size=3))
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(text)))
        stop = draw(st.integers(start, min(len(text), start + 120)))
        blank = draw(st.sampled_from(["", " ", "\n\n"]))
        candidates.append(blank + text[start:stop] + blank)
    if draw(st.booleans()):
        text += draw(phrases) + text
    return text, draw(st.permutations(candidates))


def places(text: str, document: str) -> list[int]:
    return [at for at in range(len(text)) if text.startswith(document, at)]


def naive(text: str, candidates: Iterable[str]) -> list[Span]:
    """Try every place for every document: the one with most bytes first, each at its first free place."""
    wanted = {candidate.strip() for candidate in candidates if len(candidate.strip()) >= LEAST}
    taken: list[Span] = []
    for document in sorted(wanted, key=lambda one: (-len(one.encode()), one.encode())):
        spans = (Span(at, at + len(document)) for at in places(text, document))
        free = [span for span in spans if all(span.stop <= one.start or one.stop <= span.start for one in taken)]
        taken += free[:1]
    return sorted(taken, key=lambda span: span.start)


@given(texts_with_documents())
def test_the_search_equals_a_naive_one(case: tuple[str, Sequence[str]]) -> None:
    text, candidates = case
    assume(all(len(places(text, one.strip())) <= MOST_PLACES for one in candidates if len(one.strip()) >= LEAST))
    assert find_verbatim(text, candidates) == naive(text, candidates)


@given(st.text(max_size=300), st.lists(st.text(max_size=80), max_size=5), st.data())
def test_spans_hold_documents_and_never_overlap(text: str, candidates: list[str], data: st.DataObject) -> None:
    for _ in range(3):
        start = data.draw(st.integers(0, len(text)))
        candidates.append(text[start : start + data.draw(st.integers(0, 100))])
    spans = find_verbatim(text, iter(candidates))
    documents = {candidate.strip() for candidate in candidates}
    assert all(text[span.start : span.stop] in documents for span in spans)
    assert all(before.stop <= after.start for before, after in pairwise(spans))
    assert all(span.stop - span.start >= LEAST for span in spans)


def test_the_longest_wins_and_a_shorter_one_takes_its_next_free_place() -> None:
    short = "the heart pumps blood through vessels"
    long = f"In the body {short}, and back again."
    text = f"Context: {long}\n\nAlso: {short}."
    first, second = find_verbatim(text, [short, long])
    assert (text[first.start : first.stop], text[second.start : second.stop]) == (long, short)
    assert find_verbatim(long, [short, long]) == [Span(0, len(long))]


def test_a_document_is_found_once_at_its_first_place() -> None:
    document = "Stars burn hydrogen for billions of years."
    assert find_verbatim(f"{document} {document}", [document, document + " ", f"\n{document}"]) == [
        Span(0, len(document))
    ]


def test_documents_may_touch() -> None:
    one, other = "The heart pumps blood through vessels.", "Stars burn hydrogen for billions of years, then they cool."
    a, b = len(one), len(other)
    assert find_verbatim(one + other, [one, other]) == [Span(0, a), Span(a, a + b)]
    assert find_verbatim(other + one, [one, other]) == [Span(0, b), Span(b, a + b)]


def test_offsets_count_characters_and_not_bytes() -> None:
    document = "Über die Sterne 你好 und ihre Farben 😀😀"
    text = f"💥 Frage: {document} Ende"
    (span,) = find_verbatim(text, [document])
    assert (span.start, text[span.start : span.stop]) == (9, document)


@pytest.mark.parametrize("candidates", [[], [""], ["x" * (LEAST - 1)], ["x" * 41], [" " * 60]])
def test_what_is_too_short_too_long_or_blank_is_not_looked_for(candidates: list[str]) -> None:
    assert find_verbatim("x" * 40, candidates) == []
    assert find_verbatim("", candidates) == []


def test_texts_that_repeat_themselves_end_soon() -> None:
    text = "ab " * 30_000
    assert find_verbatim(text, ["ab " * 20, "b a" * 20]) == [Span(1, 61), Span(63, 122)]


def test_lone_surrogates_are_text_like_any_other() -> None:
    document = "half an emoji \ud83d stands in this document"
    assert find_verbatim(f"é{document}", [document]) == [Span(1, 1 + len(document))]


@given(st.lists(st.lists(st.text("abc", max_size=2), max_size=4), max_size=12), st.integers(1, 5))
def test_recent_documents_are_bounded_and_newest_first(batches: list[list[str]], limit: int) -> None:
    recent = RecentDocuments(limit)
    said: list[str] = []
    for batch in batches:
        recent.add(batch)
        said += batch
        assert recent.texts() == list(dict.fromkeys(reversed(said)))[:limit]


def test_recent_documents_take_several_threads() -> None:
    recent = RecentDocuments(50)

    def add(number: int) -> None:
        for step in range(300):
            recent.add([f"{number}/{step}", "everyone's"])
            assert len(recent.texts()) <= 50

    threads = [threading.Thread(target=add, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(recent.texts()) == 50 and recent.texts()[0] == "everyone's"
