"""A prompt's blocks as one dense forward pass with an explicit 4-D mask and explicit positions, in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from grit_integrations.prompts.plan import Plan, PlannedBlock


def dense_logits(lm: PreTrainedModel, plan: Plan, again: Mapping[int, Sequence[int]] | None = None) -> Tensor:
    """Return the logits of the suffix's last token, (vocab,), without any cache.

    Every token stands in one sequence. A block that is read by itself attends to itself alone, its dropped beginning
    included; any other to everything before it that is part of the prompt. A dropped token keeps the position just
    before its block, as if the block had been moved as a whole.

    `again` names tokens that are read a second time where they stand, by block and place in it: each is one more row,
    which later tokens attend to in place of the first.
    """
    rows = _Rows()
    for index, block in enumerate([*plan.blocks, PlannedBlock(plan.suffix)]):
        rows.read(block)
        rows.read_again(block, (again or {}).get(index, ()))
    count = len(rows.ids)
    allowed = torch.zeros(count, count, dtype=torch.bool)
    for row, seen in enumerate(rows.seen):
        allowed[row, seen] = True
    with torch.inference_mode():
        output = lm(
            input_ids=torch.tensor([rows.ids]),
            attention_mask=allowed[None, None],
            position_ids=torch.tensor([rows.positions]),
            use_cache=False,
        )
    return output.logits[0, rows.visible[-1]].float()


@dataclass
class _Rows:
    """The rows of the pass: what each holds, where it stands, and which rows it attends to."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    seen: list[list[int]] = field(default_factory=list)
    visible: list[int] = field(default_factory=list)  # for each place in the prompt, the row that stands for it

    def read(self, block: PlannedBlock) -> None:
        before, first, place = list(self.visible), len(self.ids), len(self.visible) - block.drop
        own = list(range(first, first + len(block.ids)))
        for offset, row in enumerate(own):
            causal = own[: offset + 1]
            reach = {"bidirectional": own, "alone": causal, "causal": [*before, *causal]}
            self._add(block.ids[offset], place + offset, reach[block.pattern])
            if offset >= block.drop:
                self.visible.append(row)

    def read_again(self, block: PlannedBlock, places: Sequence[int]) -> None:
        start = len(self.visible) - len(block.placed)
        for number, place in enumerate(places):
            self.visible[start + place] = len(self.ids) + number
        for place in places:
            reach = self.visible if block.pattern == "bidirectional" else self.visible[: start + place + 1]
            self._add(block.placed[place], start + place, list(reach))

    def _add(self, token: int, position: int, seen: list[int]) -> None:
        self.ids.append(token)
        self.positions.append(position)
        self.seen.append(seen)
