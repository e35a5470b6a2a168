"""The best span of documents under a language model, found exactly.

Spans that begin alike share their first tokens, so they form a tree. The likeliest subtrees are read first; one whose
log-probability so far, at the greatest length, would not reach the best span found is never read, nor is anything
behind it: probabilities only shrink along a path.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grit_integrations.quoting.branches import Branch
from grit_integrations.quoting.spans import Found

if TYPE_CHECKING:
    from grit_integrations.quoting.spans import Place, Spans, SpanState

_FIRST_TOKENS = 32  # in the first pass: few, so that a good span is known before much is read
_TOKENS = 128  # in each later one


@dataclass(order=True, slots=True)
class _Waiting:
    """A subtree that has not been read; the one with the greatest log-probability comes first."""

    cost: float  # -log-probability of the path to it, its own first token included
    order: int
    token: int = field(compare=False)
    state: SpanState = field(compare=False)  # behind that token
    before: tuple[int, ...] = field(compare=False)
    parent: Branch | None = field(compare=False)


@dataclass(slots=True)
class _Path:
    """A subtree's tokens up to where it branches, or ends."""

    waiting: _Waiting
    branch: Branch
    states: list[SpanState]  # behind each token


class SpanSearch:
    """Finds the span with the best score, one chunk of the tree at a time.

    A span's score is its log-probability, the end of the text included, over its tokens to the power of
    `length_penalty`. Each token's probability is taken among those that continue a span, and the end: what sampling
    under the constraint would give.

    Args:
        spans: what may be quoted.
        end_ids: the tokens that end a text.
        longest: at most this many tokens in a span.
        length_penalty: 0 favours short spans; 1 compares averages.
        logits: behind the prompt, (1, vocab) float32.
    """

    def __init__(
        self, spans: Spans, end_ids: Collection[int], *, longest: int, length_penalty: float, logits: Tensor
    ) -> None:
        self._end_ids = sorted(end_ids)
        self._longest = longest
        self._penalty = length_penalty
        self._heap: list[_Waiting] = []
        self._order = itertools.count()
        self._passes = 0
        self._reading: list[_Path] = []
        self.best: Found | None = None
        (root,) = self._normalised([spans.root], logits)
        self._push(spans.root, root, (), 0.0, None)

    def next_branches(self) -> list[Branch]:
        """Return what to read next; nothing when the best span is known."""
        paths = self._reading = []
        room = _TOKENS if self._passes else _FIRST_TOKENS
        while self._heap and room > 0 and self._can_win(self._heap[0].cost):
            path = self._path(heapq.heappop(self._heap))
            room -= len(path.branch.ids)
            paths.append(path)
        self._passes += 1
        return [path.branch for path in paths]

    def take(self, logits: Sequence[Tensor]) -> None:
        """Take the logits behind every token of the branches, each (tokens, vocab)."""
        states = [state for path in self._reading for state in path.states]
        scores = iter(self._normalised(states, torch.cat(list(logits))))
        for path in self._reading:
            self._take_path(path, list(itertools.islice(scores, len(path.states))))

    def _take_path(self, path: _Path, scores: Sequence[dict[int, float]]) -> None:
        ids, logprob = path.branch.ids, -path.waiting.cost
        for index, (state, following) in enumerate(zip(path.states, scores, strict=True)):
            said = (*path.waiting.before, *ids[: index + 1])
            if state.place is not None:
                self._offer(state.place, said, logprob + following[_END])
            if index + 1 < len(ids):
                logprob += following[ids[index + 1]]
            elif path.branch.open:
                self._push(state, following, said, logprob, path.branch)

    def _offer(self, place: Place, ids: tuple[int, ...], logprob: float) -> None:
        found = Found(place, ids, logprob, logprob / len(ids) ** self._penalty)
        if self.best is None or found.rank > self.best.rank:
            self.best = found

    def _can_win(self, cost: float) -> bool:
        return self.best is None or -cost / self._longest**self._penalty >= self.best.score

    def _push(
        self,
        state: SpanState,
        scores: dict[int, float],
        before: tuple[int, ...],
        logprob: float,
        parent: Branch | None,
    ) -> None:
        for token in state.tokens(self._longest - len(before)):
            cost = -(logprob + scores[token])
            if self._can_win(cost):
                waiting = _Waiting(cost, next(self._order), token, state.branches[token], before, parent)
                heapq.heappush(self._heap, waiting)

    def _path(self, waiting: _Waiting) -> _Path:
        ids, states = [waiting.token], [waiting.state]
        following = self._following(states[-1], len(waiting.before) + len(ids))
        while len(following) == 1:
            ids += following
            states.append(states[-1].branches[following[0]])
            following = self._following(states[-1], len(waiting.before) + len(ids))
        return _Path(waiting, Branch(tuple(ids), waiting.parent, open=bool(following)), states)

    def _following(self, state: SpanState, said: int) -> list[int]:
        return state.tokens(self._longest - said) if said < self._longest else []

    def _normalised(self, states: Sequence[SpanState], logits: Tensor) -> list[dict[int, float]]:
        """Return for each state the log-probabilities of what may follow; `_END` stands for all tokens that end."""
        allowed = [[*state.branches, *(self._end_ids if state.place else [])] for state in states]
        most = max(len(ids) for ids in allowed)
        padded = torch.tensor([[*ids, *[-1] * (most - len(ids))] for ids in allowed], device=logits.device)
        chosen = logits.gather(1, padded.clamp_min(0)).masked_fill_(padded < 0, float("-inf"))
        rows = torch.log_softmax(chosen, dim=-1)
        return [self._named(state, row) for state, row in zip(states, rows.tolist(), strict=True)]

    def _named(self, state: SpanState, row: Sequence[float]) -> dict[int, float]:
        named = dict(zip(state.branches, row, strict=False))
        if state.place is not None:
            ends = row[len(state.branches) : len(state.branches) + len(self._end_ids)]
            named[_END] = float(torch.tensor(ends, dtype=torch.float64).logsumexp(0)) if len(ends) > 1 else ends[0]
        return named


_END = -1  # no token has this id
