"""What a generation may say, token by token: the seam between the decoder and whatever holds it to a form."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import torch
from torch import Tensor

from grit_integrations.spans import Place, Spans, SpanState


class Constraint(Protocol):
    """Names the tokens that may come next. One object follows one generation."""

    def allowed(self, room: int) -> Sequence[int]:
        """Return the tokens that may come next, at least one.

        Args:
            room: how many tokens the text may still have, at least 1. What is allowed can be completed in it.
        """
        ...

    def advance(self, token: int) -> None:
        """Take note of the token that was chosen among those allowed."""
        ...

    @property
    def cut_short(self) -> bool:
        """Whether the text had to end for lack of room, as `allowed` said last."""
        ...


class SpanConstraint:
    """Holds a generation to the words of documents.

    Args:
        spans: what may be quoted.
        end_ids: the tokens that end a text.
    """

    def __init__(self, spans: Spans, end_ids: Collection[int]) -> None:
        self._state: SpanState = spans.root
        self._end_ids = sorted(end_ids)
        self._documents = spans.documents
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
    def place(self) -> Place | None:
        """Where the quote so far stands first; `None` inside a word."""
        return self._state.place

    def push(self, token: int) -> str:
        """Return what is certain now and was not before, whole words only, in the document's own characters."""
        return self._unshown(self._state.text) if self._state.place is not None else ""

    def flush(self) -> str:
        """Return what is left of the quote when it has ended."""
        place = self._state.place
        assert place is not None, "a quote ends where a word does"
        return self._unshown(self._documents[place.document][place.start : place.end])

    def _unshown(self, text: str) -> str:
        new = text[self._shown :]
        self._shown += len(new)
        return new


def restricted(logits: Tensor, allowed: Sequence[int]) -> Tensor:
    """Return `logits`, (1, vocab), with -inf for every token that is not allowed."""
    ids = torch.tensor(allowed, device=logits.device)
    kept = torch.full_like(logits, float("-inf"))
    kept[0, ids] = logits[0, ids]
    return kept
