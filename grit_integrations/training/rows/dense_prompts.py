"""Prompts with cached blocks as one dense pass: what a model is trained on so that answers from blocks come out right.

At inference a prompt is read block by block, and the blocks of documents come from a store (`docs/caching.md`). A
dense pass with the same positions, and a mask that lets every token see what it would see there, computes the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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

    A bidirectional block sees itself alone, its dropped beginning included; a causal one everything that stands in
    the prompt before it. A moved block keeps its inner distances, so that a dropped token's position lies before it.
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
        if block.pattern == "bidirectional":
            seen[row:end, row:end] = own
        else:
            seen[row:end] = kept
            seen[row:end, row:end] = own.tril()
        kept[row + block.drop : end] = True
        row, placed = end, placed + len(block.placed)
    return DensePrompt(tuple(token for block in blocks for token in block.ids), tuple(positions), seen)


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
