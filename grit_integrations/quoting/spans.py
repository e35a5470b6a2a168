"""Every span of some documents that a quote may be, as the tokens that an answer spells it with.

Plain Python, no torch: the decoder walks these spans, and so can a trainer.

    spans = Spans(tokenizer, documents)
    spans.allowed([])            # ids of all tokens that a quote may begin with
    spans.allowed(answer_ids)    # what may follow, the end-of-text token included where a quote may end
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from grit_integrations.errors import PromptError
from grit_integrations.quoting.graph import Region, SpanGraph
from grit_integrations.quoting.words import word_boundaries

if TYPE_CHECKING:
    from grit_integrations.prompts.tokenizer import PromptTokenizer

_FIRST_WORD = re.compile(r"\W*(\w+)")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a quote stands: `documents[document][start:end]`."""

    document: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Found:
    """A span that a search found, its tokens, how good it is, and whether a limit of tokens ended it."""

    place: Place
    ids: tuple[int, ...]
    logprob: float
    score: float
    cut_short: bool = False

    @property
    def rank(self) -> tuple[float, int, int, int]:
        """Order by score; of equals the first in the documents, then the shortest."""
        return self.score, -self.place.document, -self.place.start, -self.place.end


@dataclass(frozen=True, slots=True)
class WholeQuote:
    """A whole region as a quote: where it stands, its tokens, and whether a limit of tokens cut its end off."""

    place: Place
    ids: tuple[int, ...]
    cut_short: bool


@dataclass(frozen=True, slots=True)
class _Cursor:
    """A place in a document that the tokens so far may have been taken from."""

    document: int
    start: int  # characters
    node: int
    limit: int  # where a quote from here must have ended


class Spans:
    """The quotable spans of documents.

    Args:
        tokenizer: the model's.
        documents: what to quote from.
        regions: the parts of them that may be quoted, in order; `None` is all.
        stops: strings that no quote holds.
        unwanted: lower-cased words that no quote begins with, unless nothing else is left.

    Raises:
        PromptError: there is no word to quote.

    Example:
        >>> from grit_integrations import GritLM
        >>> tokenizer = GritLM("grit-mini").checkpoint.tokenizer
        >>> spans = Spans(tokenizer, ["The heart pumps blood."])
        >>> state = spans.state(tokenizer.encode_texts(["heart pumps"])[0])
        >>> state.place
        Place(document=0, start=4, end=15)
        >>> state.tokens() == tokenizer.encode_texts(["heart pumps blood"])[0][-1:]
        True
    """

    def __init__(
        self,
        tokenizer: PromptTokenizer,
        documents: Sequence[str],
        *,
        regions: Sequence[Region] | None = None,
        stops: Sequence[str] = (),
        unwanted: Collection[str] = (),
    ) -> None:
        self.documents = tuple(documents)
        self._tokenizer = tokenizer
        self.graph = SpanGraph(tokenizer)
        wanted = self.regions = tuple(whole(documents) if regions is None else regions)
        cursors = [cursor for region in wanted for cursor in self._read(region, stops)]
        self.graph.measure()
        least = self.graph.least_behind
        quotable = [cursor for cursor in cursors if least(cursor.node) < math.inf]
        wanted_first = [cursor for cursor in quotable if not self._begins_with(cursor, unwanted)]
        self.root = SpanState(self, tuple(wanted_first or quotable))
        if not self.root.cursors:
            raise PromptError(
                f"The {len(self.documents)} documents have no word to quote: nothing but punctuation or white space is "
                "left in them. Give documents with text, or ask without quote."
            )
        self.least = int(min(least(cursor.node) for cursor in self.root.cursors))

    def state(self, prefix: Sequence[int]) -> SpanState:
        """Return the state behind the tokens `prefix` of an answer.

        Raises:
            ValueError: no span begins with them; the message names the first token that is wrong.
        """
        state = self.root
        for index, token in enumerate(prefix):
            following = state.branches.get(token)
            if following is None:
                raise ValueError(f"No span of the documents has token {token} at place {index}.")
            state = following
        return state

    def allowed(self, prefix: Sequence[int]) -> list[int]:
        """Return the ids that may follow `prefix`, the end-of-text token last if a quote may end there.

        Raises:
            ValueError: no span begins with `prefix`.
        """
        state = self.state(prefix)
        return [*state.tokens(), *([self._tokenizer.eos_id] if state.place else [])]

    def first(self, place: Place) -> Place:
        """Return where the text of a quote stands first, whichever tokens spell it there."""
        text = self.documents[place.document][place.start : place.end]
        for cursor in self.root.cursors:
            end = cursor.start + len(text)
            found = end <= cursor.limit and self.documents[cursor.document].startswith(text, cursor.start)
            if found and self.graph.may_end(self.documents[cursor.document], end):
                return Place(cursor.document, cursor.start, end)
        return place

    def whole_quote(self, region: Region, longest: int) -> WholeQuote | None:
        """Return the longest quote from the first word of a region on, of up to `longest` tokens; `None` without one.

        Where no quote begins with the first word, it is the next one that has one.
        """
        for cursor in self.root.cursors:
            if cursor.document == region.document and region.start <= cursor.start < region.end:
                found = self._longest(cursor, longest)
                if found is not None:
                    return found
        return None

    def _longest(self, cursor: _Cursor, longest: int) -> WholeQuote | None:
        text, cut_short = self.documents[cursor.document], False
        for end in sorted(word_boundaries(text).ends, reverse=True):
            if cursor.start < end <= cursor.limit:
                ids = self._tokenizer.encode_texts([text[cursor.start : end]])[0]
                if len(ids) <= longest and self._is_quote(cursor, ids):
                    return WholeQuote(Place(cursor.document, cursor.start, end), tuple(ids), cut_short)
                cut_short = cut_short or len(ids) > longest
        return None

    def _is_quote(self, cursor: _Cursor, ids: Sequence[int]) -> bool:
        """Whether these tokens, from here, are a quote; a control token makes them none."""
        state: SpanState | None = SpanState(self, (cursor,))
        for token in ids:
            state = state.branches.get(token) if state is not None else None
        return state is not None and state.place is not None

    def region(self, place: Place) -> Region:
        """Return the region that a quote is from."""
        return next(
            region
            for region in self.regions
            if region.document == place.document and region.start <= place.start and place.end <= region.end
        )

    def _begins_with(self, cursor: _Cursor, words: Collection[str]) -> bool:
        found = _FIRST_WORD.match(self.documents[cursor.document], cursor.start) if words else None
        return found is not None and found[1].lower() in words

    def _read(self, region: Region, stops: Sequence[str]) -> Iterator[_Cursor]:
        text = self.documents[region.document]
        for part in _without_stops(text, region, stops):
            for start, node in self.graph.add(text, part):
                yield _Cursor(part.document, start, node, part.end)


@dataclass(frozen=True)
class SpanState:
    """The spans that some tokens may be the beginning of.

    Attributes:
        spans: all spans.
        cursors: where those tokens stand in the documents, in order.
    """

    spans: Spans = field(repr=False)
    cursors: tuple[_Cursor, ...]

    @cached_property
    def branches(self) -> Mapping[int, SpanState]:
        """The tokens that may follow, and the state behind each."""
        found: dict[int, list[_Cursor]] = {}
        for cursor in self.cursors:
            for token, node in self.spans.graph.edges[cursor.node]:
                found.setdefault(token, []).append(replace(cursor, node=node))
        return {token: SpanState(self.spans, tuple(cursors)) for token, cursors in found.items()}

    @cached_property
    def place(self) -> Place | None:
        """The first place where these tokens are a quote as they are; `None` if they end inside a word."""
        for cursor in self.cursors:
            end = self.spans.graph.places[cursor.node]
            if self.spans.graph.ends[cursor.node] and end > cursor.start:
                return Place(cursor.document, cursor.start, end)
        return None

    @cached_property
    def least(self) -> int:
        """The fewest tokens that make a quote of these; 0 if they are one."""
        if self.place is not None:
            return 0
        return int(min(self.spans.graph.least_behind(cursor.node) for cursor in self.cursors))

    @property
    def text(self) -> str:
        """What the tokens certainly spell, in the documents' own characters."""
        places, documents = self.spans.graph.places, self.spans.documents
        return _common_start([documents[at.document][at.start : places[at.node]] for at in self.cursors])

    def tokens(self, room: int | None = None) -> list[int]:
        """Return the tokens that may follow; with `room`, those after which a quote can end in so many tokens."""
        if room is None:
            return list(self.branches)
        return [token for token, state in self.branches.items() if state.least < room]


def whole(documents: Sequence[str]) -> list[Region]:
    """Return the regions that are all of `documents`."""
    return [Region(index, 0, len(text), len(text)) for index, text in enumerate(documents)]


def _without_stops(text: str, region: Region, stops: Sequence[str]) -> Iterator[Region]:
    """Cut a region so that no quote holds one of `stops`."""
    found = sorted((end, start) for stop in stops for start, end in _occurrences(text, stop, region))
    begin = region.start
    for end, start in found:
        if start >= begin:  # else a quote that begins here cannot hold it without holding an earlier one
            yield Region(region.document, begin, end - 1, min(start, region.last))
            begin = start + 1
    if begin <= region.last:
        yield Region(region.document, begin, region.end, region.last)


def _occurrences(text: str, stop: str, region: Region) -> Iterator[tuple[int, int]]:
    at = text.find(stop, region.start, region.end)
    while at >= 0:
        yield at, at + len(stop)
        at = text.find(stop, at + 1, region.end)


def _common_start(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)  # where these agree, all that sort between them do
    length = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    return first[:length]
