"""What a generation may say, token by token: the seam between the decoder and whatever holds it to a form."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from grit_integrations.errors import OptionError
from grit_integrations.quoting.spans import Place, Spans, SpanState


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


@dataclass(frozen=True, slots=True)
class Permutation:
    """Items that a text lists, each once, in any order.

    Attributes:
        first: each item's tokens where the text begins with it.
        later: each item's tokens behind another item.

    Raises:
        OptionError: one item's tokens are the start of another's, so that the text would be ambiguous.
    """

    first: tuple[tuple[int, ...], ...]
    later: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        for spelled in (self.first, self.later):
            for ids, after in pairwise(sorted(spelled)):  # what begins with an item's tokens stands right behind it
                if after[: len(ids)] == ids:
                    raise OptionError(
                        f"This model's tokenizer does not tell the items of a list apart: {ids} begins {after}. "
                        'Rerank with method="pointwise" or "embedding".'
                    )

    @property
    def longest(self) -> int:
        """The most tokens that such a text can have, its end included."""
        return 1 + sum(max(len(a), len(b)) for a, b in zip(self.first, self.later, strict=True))


class PermutationConstraint:
    """Holds a generation to a list of all items, each once; the end comes behind the last.

    Args:
        permutation: what is listed.
        end_ids: the tokens that end a text.
    """

    cut_short = False  # the text's room is checked before it begins

    def __init__(self, permutation: Permutation, end_ids: Collection[int]) -> None:
        self._later = permutation.later
        self._end_id = min(end_ids)
        self._left = dict(enumerate(permutation.first))  # items not listed yet
        self._begun = self._left  # those that the item being spelled can still become
        self._at = 0  # tokens of it so far

    def allowed(self, room: int) -> list[int]:
        """Return the tokens that continue an item which is left, or the end if none is."""
        return sorted({ids[self._at] for ids in self._begun.values()}) or [self._end_id]

    def advance(self, token: int) -> None:
        """Follow one token."""
        self._begun = {item: ids for item, ids in self._begun.items() if ids[self._at] == token}
        self._at += 1
        for item, ids in self._begun.items():
            if len(ids) == self._at:  # no other item begins like it
                self._left = self._begun = {other: self._later[other] for other in self._left if other != item}
                self._at = 0
                return


def restricted(logits: Tensor, allowed: Sequence[int]) -> Tensor:
    """Return `logits`, (1, vocab), with -inf for every token that is not allowed."""
    ids = torch.tensor(allowed, device=logits.device)
    kept = torch.full_like(logits, float("-inf"))
    kept[0, ids] = logits[0, ids]
    return kept
