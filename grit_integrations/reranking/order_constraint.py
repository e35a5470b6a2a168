"""A generation held to a list of all passages, each once, in any order."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise

from grit_integrations.engine.constraints import Constraint
from grit_integrations.errors import OptionError


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


class OrderConstraint(Constraint):
    """Holds a generation to a list of all items, each once; the end comes behind the last.

    Args:
        permutation: what is listed.
        end_ids: the tokens that end a text.
    """

    def __init__(self, permutation: Permutation, end_ids: Collection[int]) -> None:
        self._later = permutation.later
        self._end_id = min(end_ids)
        self._left = dict(enumerate(permutation.first))  # items not listed yet
        self._begun = self._left  # those that the item being spelled can still become
        self._at = 0  # tokens of it so far

    def allowed(self, room: int) -> list[int]:
        """Return the tokens that continue an item which is left, or the end if none is."""
        return sorted({ids[self._at] for ids in self._begun.values()}) or [self._end_id]

    def forced(self, room: int) -> list[int]:
        """Return the token that comes next if there is no choice."""
        allowed = self.allowed(room)
        return allowed if len(allowed) == 1 else []

    def advance(self, token: int) -> None:
        """Follow one token."""
        self._begun = {item: ids for item, ids in self._begun.items() if ids[self._at] == token}
        self._at += 1
        for item, ids in self._begun.items():
            if len(ids) == self._at:  # no other item begins like it
                self._left = self._begun = {other: self._later[other] for other in self._left if other != item}
                self._at = 0
                return
