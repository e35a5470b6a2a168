"""Prompts with cached blocks as one dense pass: what a model is trained on so that answers from blocks come out right.

At inference a prompt is read block by block, and the blocks of documents come from a store (`docs/caching.md`). A
dense pass with the same positions, and a mask that lets every token see what it would see there, computes the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from grit_integrations.prompts.plan import Plan, PlannedBlock


@dataclass(frozen=True, slots=True)
class DensePrompt:
    """A planned prompt, and an answer behind it, as one row.

    Attributes:
        ids: of all blocks, what is dropped of them included, then of the suffix and the answer.
        positions: of each id, as the model rotates it.
        seen: (tokens, tokens) bool, true where a token (row) sees another.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    seen: Tensor


def dense_prompt(plan: Plan, answer: Sequence[int]) -> DensePrompt:
    """Return `plan` followed by `answer` as one row.

    A block that is read by itself sees itself alone, its dropped beginning included; any other everything that stands
    in the prompt before it. A moved block keeps its inner distances, so that a dropped token's position lies before it.
    """
    blocks = [*plan.blocks, PlannedBlock((*plan.suffix, *answer))]
    total = sum(len(block.ids) for block in blocks)
    seen = torch.zeros(total, total, dtype=torch.bool)
    kept = torch.zeros(total, dtype=torch.bool)  # what later causal tokens see
    positions: list[int] = []
    row = placed = 0
    for block in blocks:
        end = row + len(block.ids)
        positions += range(placed - block.drop, placed - block.drop + len(block.ids))
        own = torch.ones(end - row, end - row, dtype=torch.bool)
        if not block.by_itself:
            seen[row:end] = kept
        seen[row:end, row:end] = own if block.pattern == "bidirectional" else own.tril()
        kept[row + block.drop : end] = True
        row, placed = end, placed + len(block.placed)
    return DensePrompt(tuple(token for block in blocks for token in block.ids), tuple(positions), seen)


@dataclass(frozen=True, slots=True)
class Branches:
    """Prompts that begin alike, as one row: the beginning once, then the rest of each, which sees no other rest.

    Attributes:
        prompt: the row.
        shared: how many tokens the beginning has.
        starts: where in the row each rest starts.
    """

    prompt: DensePrompt
    shared: int
    starts: tuple[int, ...]


def branch(prompts: Sequence[DensePrompt], own: Sequence[int]) -> Branches:
    """Return prompts as one row, in which each token sees what it sees in its prompt.

    Args:
        prompts: at least one.
        own: how many tokens at the end of each are its own, however much alike they are.
    """
    first, rests = prompts[0], [len(prompt.ids) - count for prompt, count in zip(prompts, own, strict=True)]
    shared = min(_alike(first, prompt, most) for prompt, most in zip(prompts, rests, strict=True))
    while bool(first.seen[:shared, shared:].any()):  # a block that is read both ways is shared whole or not at all
        shared -= 1
    tails = [len(prompt.ids) - shared for prompt in prompts]
    starts = [shared + sum(tails[:index]) for index in range(len(tails))]
    total = shared + sum(tails)
    seen = torch.zeros(total, total, dtype=torch.bool)
    seen[:shared, :shared] = first.seen[:shared, :shared]
    for prompt, start, tail in zip(prompts, starts, tails, strict=True):
        seen[start : start + tail, :shared] = prompt.seen[shared:, :shared]
        seen[start : start + tail, start : start + tail] = prompt.seen[shared:, shared:]
    ids = (*first.ids[:shared], *(token for prompt in prompts for token in prompt.ids[shared:]))
    places = (*first.positions[:shared], *(place for prompt in prompts for place in prompt.positions[shared:]))
    return Branches(DensePrompt(ids, places, seen), shared, tuple(starts))


def _alike(one: DensePrompt, other: DensePrompt, most: int) -> int:
    """Return with how many tokens, at their positions, two prompts begin alike; `most` at most."""
    pairs = zip(one.ids, other.ids, one.positions, other.positions, strict=False)
    return min(most, sum(1 for _ in takewhile(lambda each: each[0] == each[1] and each[2] == each[3], pairs)))


@dataclass(frozen=True, slots=True)
class DenseBatch:
    """Dense prompts padded on the right; padding sees itself alone."""

    ids: Tensor  # (rows, tokens)
    positions: Tensor  # (rows, tokens)
    seen: Tensor  # (rows, 1, tokens, tokens) bool

    def to(self, device: torch.device) -> DenseBatch:
        """Return the same on a device."""
        return DenseBatch(self.ids.to(device), self.positions.to(device), self.seen.to(device))


def pad_prompts(prompts: Sequence[DensePrompt], pad: int) -> DenseBatch:
    """Return rows of one width; `pad` is the id that fills them."""
    width = max(len(prompt.ids) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad)
    positions = torch.zeros(len(prompts), width, dtype=torch.long)
    seen = torch.eye(width, dtype=torch.bool).repeat(len(prompts), 1, 1)
    for row, prompt in enumerate(prompts):
        length = len(prompt.ids)
        ids[row, :length] = torch.tensor(prompt.ids)
        positions[row, :length] = torch.tensor(prompt.positions)
        seen[row, :length, :length] = prompt.seen
    return DenseBatch(ids, positions, seen[:, None])
