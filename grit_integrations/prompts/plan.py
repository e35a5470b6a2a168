"""A prompt as the blocks that are read one after the other, and what is read for each answer behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grit_integrations.kv.keys import KeySpace, Pattern, child


@dataclass(frozen=True, slots=True)
class PlannedBlock:
    """One block of a prompt.

    Attributes:
        ids: the tokens read together.
        pattern: `"causal"` attends to everything before it as well; `"bidirectional"` to itself alone.
        document: whether it ends with a document, so that keeping it on disk may pay.
        drop: leading tokens that are read but not put into the prompt (the BOS of a text that is not its first).
    """

    ids: tuple[int, ...]
    pattern: Pattern = "causal"
    document: bool = False
    drop: int = 0

    @property
    def placed(self) -> tuple[int, ...]:
        """The tokens that become part of the prompt."""
        return self.ids[self.drop :]


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole prompt: blocks, then the suffix, which has at least one token."""

    blocks: tuple[PlannedBlock, ...]
    suffix: tuple[int, ...]

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """All tokens of the prompt, in order."""
        return tuple(token for block in self.blocks for token in block.placed) + self.suffix

    def __len__(self) -> int:
        return sum(len(block.placed) for block in self.blocks) + len(self.suffix)

    def keys(self, space: KeySpace) -> list[str]:
        """Return the key of each block, and of the suffix as the block that it is in a longer prompt."""
        root = space.root()
        chain, keys = child(root, "causal", ()), []
        for block in self._all_blocks():
            chain = child(chain, block.pattern, block.ids, drop=block.drop, document=block.document)
            alone = child(root, block.pattern, block.ids, document=block.document)
            keys.append((alone if block.pattern == "bidirectional" else chain).hex())
        return keys

    def _all_blocks(self) -> Sequence[PlannedBlock]:
        return (*self.blocks, PlannedBlock(self.suffix))
