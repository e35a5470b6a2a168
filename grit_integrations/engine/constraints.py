"""What a generation may say, token by token: the seam between the decoder and whatever holds it to a form.

A caller makes a `Constraint` and hands it in with a request; one object follows one generation. The decoder asks what
is allowed, chooses, and tells; it knows no kind of constraint. Quotes (`quoting/constraint.py`) and orders of passages
(`reranking/order_constraint.py`) are two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from grit_integrations.results import Generation

Allowed = (
    Sequence[int] | Tensor
)  # token ids, or a bit mask of the vocabulary: int32, bit b of word w is token 32 * w + b


class TextSource(Protocol):
    """Turns a generation's tokens into text."""

    def push(self, token: int) -> str:
        """Return the text that can be shown now that `token` has come."""
        ...

    def flush(self) -> str:
        """Return what is left at the end."""
        ...


class Constraint(ABC):
    """Names the tokens that may come next, the end of the text among them where it may end.

    Attributes:
        weighs: whether `completed` needs the log-probability of the text among what was allowed.
    """

    weighs: bool = False

    @abstractmethod
    def allowed(self, room: int) -> Allowed:
        """Return the tokens that may come next, at least one.

        Args:
            room: how many tokens the text may still have, at least 1. What is allowed can be completed in it, if the
                constraint can tell.
        """

    @abstractmethod
    def advance(self, token: int) -> None:
        """Take note of the token that came next."""

    def forced(self, room: int) -> Sequence[int]:
        """Return tokens that must come next, in order: they are read in one pass and none is chosen."""
        return ()

    @property
    def over(self) -> bool:
        """Whether the text is complete and nothing may follow, not even a token that ends it."""
        return False

    @property
    def cut_short(self) -> bool:
        """Whether the text had to end for lack of room, as `allowed` said last."""
        return False

    @property
    def text(self) -> TextSource | None:
        """What shows the tokens as text; `None` leaves it to the tokenizer."""
        return None

    def completed(self, generation: Generation, logprob: float) -> Generation:
        """Return the finished generation with what the constraint knows of it.

        Args:
            generation: as the decoder has it.
            logprob: of the chosen tokens, each among those that were allowed; 0 unless the constraint `weighs`.
        """
        return generation


def restricted(logits: Tensor, allowed: Allowed) -> Tensor:
    """Return `logits`, (1, vocab), with -inf for every token that is not allowed."""
    if isinstance(allowed, Tensor):
        return logits.masked_fill(~_unpacked(allowed.to(logits.device), logits.shape[-1]), float("-inf"))
    ids = torch.tensor(allowed, device=logits.device)
    kept = torch.full_like(logits, float("-inf"))
    kept[0, ids] = logits[0, ids]
    return kept


def _unpacked(mask: Tensor, count: int) -> Tensor:
    """Return a bit mask, (words,) int32, as one truth value a token, (count,)."""
    bits = torch.arange(32, dtype=torch.int32, device=mask.device)
    return (mask[:, None] >> bits & 1).bool().flatten()[:count]
