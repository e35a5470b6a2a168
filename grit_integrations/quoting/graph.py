"""The spans of texts as a graph: nodes between tokens, every path from a start to an end a span.

An answer's first word stands at the beginning of a line, in a document it stands behind a space: the tokens of a span
are no slice of the document's tokens. They are so from the first place on where both ways to cut the text into tokens
agree, since byte-pair merges never cross a place that is a boundary in the end. So each start has a short head of its
own, which leads into the one chain of its document's tokens. Where a span ends inside a token of that chain, a short
tail spells its last characters.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grit_integrations.quoting.words import word_boundaries

if TYPE_CHECKING:
    from grit_integrations.prompts.tokenizer import PromptTokenizer, Spelling

_WINDOW = 48  # characters in which a head must find into its document's tokens


@dataclass(frozen=True, slots=True)
class Region:
    """Part of a document that may be quoted, in characters; quotes begin in it at `last` or before."""

    document: int
    start: int
    end: int
    last: int


class SpanGraph:
    """Nodes between tokens; each edge is a token, each path from a start to an end spells a span.

    Attributes:
        edges: of each node, the tokens that may follow and the nodes behind them.
        places: of each node, the characters of its document up to it.
        ends: whether a quote may end at a node.
    """

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        self.edges: list[list[tuple[int, int]]] = []
        self.places: list[int] = []
        self.ends: list[bool] = []
        self._ranks: list[float] = []  # an edge leads to a higher one
        self._least: list[float] = []
        self._tokenizer = tokenizer
        self._texts: dict[str, _Text] = {}

    def add(self, text: str, region: Region) -> list[tuple[int, int]]:
        """Add a region of `text`, and return each start in it with its node."""
        known = self._texts.get(text) or self._texts.setdefault(text, _Text(text, self._tokenizer))
        return _RegionReader(self, known, region, self._tokenizer).read()

    def may_end(self, text: str, end: int) -> bool:
        """Tell whether a quote of a text that was added may end at a place."""
        return end in self._texts[text].boundaries.ends

    def node(self, rank: float, place: int, *, end: bool = False) -> int:
        """Return a new node."""
        self.edges.append([])
        self.places.append(place)
        self.ends.append(end)
        self._ranks.append(rank)
        return len(self.edges) - 1

    def link(self, first: int, last: int, ids: Sequence[int]) -> None:
        """Connect two nodes by tokens; unless one of them is a control token, which no quote holds."""
        if not self._tokenizer.control_ids.isdisjoint(ids):
            return
        before, step = first, (self._ranks[last] - self._ranks[first]) / len(ids)
        for index, token in enumerate(ids, 1):
            behind = last if index == len(ids) else self.node(self._ranks[first] + step * index, self.places[first])
            self.edges[before].append((token, behind))
            before = behind

    def measure(self) -> None:
        """Work out how far each node is from an end, and cut off what leads to none."""
        self._least = [math.inf] * len(self.edges)
        for node in sorted(range(len(self.edges)), key=self._ranks.__getitem__, reverse=True):
            self.edges[node] = [edge for edge in self.edges[node] if self._least[edge[1]] < math.inf]
            self._least[node] = 0 if self.ends[node] else self.least_behind(node)

    def least_behind(self, node: int) -> float:
        """Return the fewest tokens, at least one, from `node` to an end."""
        return min((1 + self._least[behind] for _, behind in self.edges[node]), default=math.inf)


class _Text:
    """One document as the model reads it, and the way back to its own characters."""

    def __init__(self, text: str, tokenizer: PromptTokenizer) -> None:
        self.clean = tokenizer.neutralised(text)
        self._originals = _originals(text, self.clean)
        (spelling,) = tokenizer.spell([self.clean])
        self.pieces = list(_pieces(spelling, 0))
        self.cuts = [0, *(end for _, end, _ in self.pieces)]
        self.boundaries = word_boundaries(text)
        cleans = {original: place for place, original in reversed(list(enumerate(self._originals)))}
        self.ends = [cleans[end] for end in self.boundaries.ends]  # the first place behind so many original characters
        # A start stands behind whatever neutralising put in front of it.
        self.starts = [bisect_right(self._originals, start) - 1 for start in self.boundaries.starts]

    def original(self, place: int) -> int:
        """Return how many characters of the original stand before a place of the clean text."""
        return self._originals[place]

    def clean_region(self, region: Region) -> tuple[int, int, int]:
        """Return start, end and last start of a region in the clean text."""
        start, end = bisect_left(self._originals, region.start), bisect_left(self._originals, region.end)
        return start, end, bisect_right(self._originals, region.last) - 1


class _RegionReader:
    """Adds the spans of one region to a graph. Places are those of the clean text."""

    def __init__(self, graph: SpanGraph, text: _Text, region: Region, tokenizer: PromptTokenizer) -> None:
        self._graph = graph
        self._text = text
        self._tokenizer = tokenizer
        self._start, self._end, self._last = text.clean_region(region)
        self._ends = text.ends[bisect_right(text.ends, self._start) : bisect_right(text.ends, self._end)]
        self._ending = frozenset(self._ends)
        self._tails: list[tuple[int, int, int]] = []  # a node, its place, and an end inside the token that follows
        self._nodes: dict[int, int] = {}
        self._cuts: list[int] = []

    def read(self) -> list[tuple[int, int]]:
        """Add everything, and return each start, in characters of the original, with its node."""
        self._add_chain()
        starts = self._text.starts
        wanted = starts[bisect_left(starts, self._start) : bisect_right(starts, self._last)]
        found = [(self._text.original(start), node) for start, node in self._heads(wanted)]
        self._add_tails()
        return found

    def _add_chain(self) -> None:
        text = self._text
        inside = text.cuts[bisect_left(text.cuts, self._start) : bisect_right(text.cuts, self._end)]
        self._cuts = inside if self._end in inside else [*inside, self._end]  # the region may end inside a token
        self._nodes = {cut: self._node(cut) for cut in self._cuts}
        first = bisect_left(text.cuts, inside[0]) if inside else len(text.pieces)
        for start, end, ids in text.pieces[first:]:
            if start >= self._end:
                break
            if end <= self._end:
                self._connect(self._nodes[start], start, self._nodes[end], end, ids)
            else:
                self._note_tails(self._nodes[start], start, self._end + 1)

    def _heads(self, starts: Sequence[int]) -> list[tuple[int, int]]:
        """Return the node of each start, with the tokens that lead from it into the chain."""
        spaces = [cut for cut in self._cuts if cut == self._end or self._text.clean[cut].isspace()]
        windows = {
            start: self._text.clean[start : self._window(start, spaces)]
            for start in starts
            if start not in self._nodes and start < self._end
        }
        different = list(dict.fromkeys(windows.values()))
        spelled = dict(zip(different, self._tokenizer.spell(different) if different else [], strict=True))
        known = {start: self._head(start, spelled[window]) for start, window in windows.items()}
        return [(start, known.get(start, self._nodes.get(start, -1))) for start in starts if start < self._end]

    def _window(self, start: int, spaces: Sequence[int]) -> int:
        """Return the end of the next word, or of as many tokens as a window holds."""
        end = spaces[bisect_right(spaces, start)]
        if end - start <= _WINDOW:
            return end
        following = bisect_right(self._cuts, start)
        return self._cuts[max(following, bisect_right(self._cuts, start + _WINDOW) - 1)]

    def _head(self, start: int, spelling: Spelling) -> int:
        node = first = self._node(start)
        at = start
        for place, end, ids in _pieces(spelling, start):
            behind = self._nodes[end] if end in self._nodes else self._node(end)
            self._connect(node, place, behind, end, ids)
            node, at = behind, end
            if at in self._nodes:
                break
        return first

    def _connect(self, first: int, start: int, last: int, end: int, ids: Sequence[int]) -> None:
        self._graph.link(first, last, ids)
        self._note_tails(first, start, end)

    def _note_tails(self, node: int, start: int, end: int) -> None:
        inside = self._ends[bisect_right(self._ends, start) : bisect_left(self._ends, end)]
        self._tails += [(node, start, place) for place in inside]

    def _add_tails(self) -> None:
        texts = list(dict.fromkeys(self._text.clean[start:end] for _, start, end in self._tails))
        spelled = dict(zip(texts, self._tokenizer.spell(texts) if texts else [], strict=True))
        for node, start, end in self._tails:
            last = self._graph.node(end, self._text.original(end), end=True)
            self._graph.link(node, last, spelled[self._text.clean[start:end]].ids)

    def _node(self, place: int) -> int:
        return self._graph.node(place, self._text.original(place), end=place in self._ending)


def _pieces(spelling: Spelling, offset: int) -> Iterator[tuple[int, int, list[int]]]:
    """Yield the places between which whole characters are spelled, and their tokens."""
    start, ids = 0, list[int]()
    for token, end in zip(spelling.ids, spelling.ends, strict=True):
        ids.append(token)
        if end is not None and end > start:
            yield offset + start, offset + end, ids
            start, ids = end, []


def _originals(text: str, clean: str) -> Sequence[int]:
    """Return for each place of `clean` how many characters of `text` stand before it; `clean` has more of them."""
    if text == clean:
        return range(len(text) + 1)
    places, at = [0], 0
    for character in clean:
        at += at < len(text) and character == text[at]
        places.append(at)
    return places
