"""A generation held to the words of documents, token by token."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from grit_integrations.engine.constraints import Constraint
from grit_integrations.results import Quote

if TYPE_CHECKING:
    from grit_integrations.options import Quoting
    from grit_integrations.quoting.spans import Place, Spans, SpanState
    from grit_integrations.results import Generation


class SpanConstraint(Constraint):
    """Holds a generation to the words of documents, which it also shows in the documents' own characters.

    Args:
        spans: what may be quoted.
        end_ids: the tokens that end a text.
        quoting: how quotes are weighed.
    """

    weighs = True

    def __init__(self, spans: Spans, end_ids: Collection[int], quoting: Quoting) -> None:
        self._spans, self._quoting = spans, quoting
        self._state: SpanState = spans.root
        self._end_ids = sorted(end_ids)
        self._shown = 0  # characters
        self._cut_short = False

    def allowed(self, room: int) -> list[int]:
        """Return the tokens after which the quote can still end with a word, and the end where one ends."""
        tokens = self._state.tokens(room)
        self._cut_short = not tokens and bool(self._state.branches)
        return [*tokens, *(self._end_ids if self._state.place else [])]

    def advance(self, token: int) -> None:
        """Follow one token; the end of the text changes nothing."""
        if token not in self._end_ids:
            self._state = self._state.branches[token]

    @property
    def cut_short(self) -> bool:
        """Whether the quote could go on, but not to the end of another word."""
        return self._cut_short

    @property
    def text(self) -> SpanConstraint:
        """The documents' own characters, whole words only."""
        return self

    def push(self, token: int) -> str:
        """Return what is certain now and was not before, whole words only."""
        return self._unshown(self._state.text) if self._state.place is not None else ""

    def flush(self) -> str:
        """Return what is left of the quote when it has ended."""
        place = self._state.place
        assert place is not None, "a quote ends where a word does"
        return self._unshown(self._spans.documents[place.document][place.start : place.end])

    def completed(self, generation: Generation, logprob: float) -> Generation:
        """Return the generation with the quote that it is."""
        place = self._state.place
        if place is None:
            return generation
        said = sum(token not in self._end_ids for token in generation.token_ids)
        return replace(generation, quotes=(quote_at(self._spans, place, self._quoting, logprob, said),))

    def _unshown(self, text: str) -> str:
        new = text[self._shown :]
        self._shown += len(new)
        return new


def quote_at(spans: Spans, place: Place, quoting: Quoting, logprob: float, tokens: int) -> Quote:
    """Return the quote of a place, as where its text stands first.

    Args:
        spans: what may be quoted.
        place: where it was found.
        quoting: how quotes are weighed.
        logprob: of the quote.
        tokens: how many it has, its end not counted.
    """
    place = spans.first(place)
    text = spans.documents[place.document][place.start : place.end]
    picked = spans.region(place) if quoting.sentences else None
    within = None if picked is None else (picked.start, picked.end)
    score = logprob / tokens**quoting.length_penalty
    return Quote(text, place.document, place.start, place.end, score, within)
