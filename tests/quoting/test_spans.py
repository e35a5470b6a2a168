"""The spans of documents: every one between two word boundaries, once, spelled as the model would spell it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from odd_texts import documents_lists, texts

from grit_integrations import GritLM, PromptError
from grit_integrations.prompts.tokenizer import PromptTokenizer
from grit_integrations.quoting.graph import Region
from grit_integrations.quoting.spans import Place, Spans
from grit_integrations.quoting.words import word_boundaries


@pytest.fixture(scope="module", params=["mistral vocabulary", "byte-level"])
def tokenizer(request: pytest.FixtureRequest, tiny: GritLM) -> PromptTokenizer:
    grit = tiny if request.param == "mistral vocabulary" else GritLM("grit-mini")
    return grit.checkpoint.tokenizer


def paths(spans: Spans) -> Iterator[tuple[tuple[int, ...], Place]]:
    """Yield every sequence of tokens that is a quote."""
    waiting = [((), spans.root)]
    while waiting:
        ids, state = waiting.pop()
        if state.place is not None:
            yield ids, state.place
        waiting += [((*ids, token), after) for token, after in state.branches.items()]


def wanted(text: str) -> set[str]:
    boundaries = word_boundaries(text)
    return {text[start:end] for start in boundaries.starts for end in boundaries.ends if end > start}


@settings(max_examples=150, deadline=None)
@given(text=texts)
@example(text="“The heart’s (3.8) <|user|> </s> 你好吗。")
def test_all_spans_are_there_once_and_decode_to_themselves(tokenizer: PromptTokenizer, text: str) -> None:
    every = wanted(text)
    if not every:
        with pytest.raises(PromptError, match="no word to quote"):
            Spans(tokenizer, [text])
        return
    found = list(paths(Spans(tokenizer, [text])))
    quotes = [text[place.start : place.end] for _, place in found]
    assert set(quotes) == every
    for (ids, _), quote in zip(found, quotes, strict=True):
        assert shown(tokenizer, list(ids)) == shown(tokenizer, tokenizer.encode_texts([quote])[0])


def shown(tokenizer: PromptTokenizer, ids: list[int]) -> str:
    """Decode tokens in the middle of a line, without what neutralising put between them."""
    letter = tokenizer.encode_texts(["a"])[0]
    return tokenizer.decode([*letter, *ids]).replace("\u200b", "")


@settings(max_examples=100, deadline=None)
@given(documents=documents_lists)
def test_a_quote_names_its_first_place(tokenizer: PromptTokenizer, documents: list[str]) -> None:
    try:
        spans = Spans(tokenizer, documents)
    except PromptError:
        return
    for _, place in paths(spans):
        text = documents[place.document][place.start : place.end]
        boundaries = [word_boundaries(document) for document in documents[: place.document + 1]]
        earlier = [
            Place(index, start, start + len(text))
            for index, found in enumerate(boundaries)
            for start in found.starts
            if documents[index][start : start + len(text)] == text and start + len(text) in found.ends
        ]
        assert spans.first(place) == earlier[0]


@settings(max_examples=100, deadline=None)
@given(text=texts, data=st.data())
def test_regions_and_stops_hold(tokenizer: PromptTokenizer, text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    stops = data.draw(st.lists(st.sampled_from(["e", " ", "a.", "heart", "好"]), max_size=2))
    boundaries = word_boundaries(text)
    every = {
        text[first:last]
        for first in boundaries.starts
        for last in boundaries.ends
        if start <= first < last <= end and not any(stop in text[first:last] for stop in stops)
    }
    try:
        spans = Spans(tokenizer, [text], regions=[Region(0, start, end, end)], stops=stops)
    except PromptError:
        assert not every
        return
    assert {text[place.start : place.end] for _, place in paths(spans)} == every


@settings(max_examples=100, deadline=None)
@given(text=texts, room=st.integers(1, 6))
def test_what_is_allowed_in_so_much_room_can_end_in_it(tokenizer: PromptTokenizer, text: str, room: int) -> None:
    try:
        state = Spans(tokenizer, [text]).root
    except PromptError:
        return
    shortest = min(len(ids) for ids, _ in paths(state.spans))
    assert bool(state.tokens(room)) == (shortest <= room)
    while room and state.tokens(room):
        state, room = state.branches[state.tokens(room)[-1]], room - 1
    assert state.place is not None or shortest > room


@pytest.mark.parametrize("text", ["The heart pumps blood.", "It rose 3.8 %, he said.", "Ärzte lesen täglich Bücher"])
def test_plain_text_is_spelled_as_an_answer_is(tokenizer: PromptTokenizer, text: str) -> None:
    for ids, place in paths(Spans(tokenizer, [text])):
        assert list(ids) == tokenizer.encode_texts([text[place.start : place.end]])[0]


def test_a_prefix_tells_what_may_follow(tokenizer: PromptTokenizer) -> None:
    spans = Spans(tokenizer, ["The heart pumps blood."])
    answer = tokenizer.encode_texts(["heart pumps"])[0]
    assert answer[0] in spans.allowed([]) and tokenizer.eos_id not in spans.allowed([])
    assert spans.allowed(answer)[-1] == tokenizer.eos_id and len(spans.allowed(answer)) == 2
    with pytest.raises(ValueError, match="at place 1"):
        spans.allowed([answer[0], tokenizer.eos_id])


def test_spans_need_no_torch() -> None:
    code = "import sys, grit_integrations.quoting.spans; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
