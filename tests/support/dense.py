"""A prompt's blocks as one dense forward pass with an explicit 4-D mask and explicit positions, in float32."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from grit_integrations.prompts.plan import Plan, PlannedBlock


def dense_logits(lm: PreTrainedModel, plan: Plan) -> Tensor:
    """Return the logits of the suffix's last token, (vocab,), without any cache.

    Every token stands in one sequence. A block that is read by itself attends to itself alone, its dropped beginning
    included; any other to everything before it that is part of the prompt. A dropped token keeps the position just
    before its block, as if the block had been moved as a whole.
    """
    blocks = [*plan.blocks, PlannedBlock(plan.suffix)]
    ids = [token for block in blocks for token in block.ids]
    allowed = torch.zeros(len(ids), len(ids), dtype=torch.bool)
    positions: list[int] = []
    visible: list[int] = []  # rows that later causal tokens attend to
    row = placed = 0
    for block in blocks:
        rows = list(range(row, row + len(block.ids)))
        positions += [placed - block.drop + offset for offset in range(len(rows))]
        for index, here in enumerate(rows):
            if not block.by_itself:
                allowed[here, visible] = True
            allowed[here, rows if block.pattern == "bidirectional" else rows[: index + 1]] = True
        visible += rows[block.drop :]
        row += len(rows)
        placed += len(block.placed)
    with torch.inference_mode():
        output = lm(
            input_ids=torch.tensor([ids]),
            attention_mask=allowed[None, None],
            position_ids=torch.tensor([positions]),
            use_cache=False,
        )
    return output.logits[0, -1].float()
