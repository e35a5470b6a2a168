"""Which of the picked sentences a language model would answer with: each is read once behind the prompt.

Where `span_search` finds the best of all spans, this compares a few whole ones.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grit_integrations.quoting.branches import Branch
from grit_integrations.quoting.spans import Found

if TYPE_CHECKING:
    from grit_integrations.quoting.spans import Spans, WholeQuote

_TOKENS = 512  # in one pass


class SentenceSearch:
    """Finds the region with the best score, some regions at a time.

    A region's score is its log-probability, the end of the text included, over its tokens to the power of
    `length_penalty`; each token's probability is taken among all tokens.

    Args:
        spans: its regions are what is compared.
        end_ids: the tokens that end a text.
        longest: at most this many tokens in a quote; a longer region loses its end.
        length_penalty: 0 favours short regions; 1 compares averages.
        logits: behind the prompt, (1, vocab) float32.
    """

    def __init__(
        self, spans: Spans, end_ids: Collection[int], *, longest: int, length_penalty: float, logits: Tensor
    ) -> None:
        self._end_ids = sorted(end_ids)
        self._penalty = length_penalty
        self._first = torch.log_softmax(logits, dim=-1)
        self._waiting = [quote for region in spans.regions if (quote := spans.whole_quote(region, longest))]
        self._reading: list[WholeQuote] = []
        self.best: Found | None = None

    def next_branches(self) -> list[Branch]:
        """Return what to read next; nothing when the best region is known."""
        self._reading, room = [], _TOKENS
        while self._waiting and (not self._reading or len(self._waiting[0].ids) <= room):
            self._reading.append(self._waiting.pop(0))
            room -= len(self._reading[-1].ids)
        return [Branch(quote.ids) for quote in self._reading]

    def take(self, logits: Sequence[Tensor]) -> None:
        """Take the logits behind every token of the branches, each (tokens, vocab)."""
        for quote, behind in zip(self._reading, logits, strict=True):
            rows = torch.cat([self._first, torch.log_softmax(behind, dim=-1)])
            said = rows[torch.arange(len(quote.ids)), torch.tensor(quote.ids)].sum()
            logprob = float(said + rows[-1, self._end_ids].logsumexp(0))
            found = Found(quote.place, quote.ids, logprob, logprob / len(quote.ids) ** self._penalty, quote.cut_short)
            if self.best is None or found.rank > self.best.rank:
                self.best = found
