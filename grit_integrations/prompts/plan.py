"""A prompt as the blocks that are read one after the other, and what is read for each answer behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grit_integrations.prompts.embedding import embedded_ids
from grit_integrations.prompts.formats import Alone, Cut, Embedded, Segment

if TYPE_CHECKING:
    from grit_integrations.doc_blocks import DocBlocks
    from grit_integrations.prompts.formats import Part, Text
    from grit_integrations.prompts.prompt_format import EmbeddingSide, Pattern
    from grit_integrations.prompts.tokenizer import PromptTokenizer

_BLANK_LINE = Segment("\n\n")


@dataclass(frozen=True, slots=True)
class PlannedBlock:
    """One block of a prompt.

    Attributes:
        ids: the tokens read together.
        pattern: `"causal"` attends to everything before it as well; `"bidirectional"` to itself alone, both ways, as
            models embed; `"alone"` to itself alone, causally: of models that embed so, and of `Alone` documents.
        document: whether it ends with a document, so that keeping it on disk may pay.
        drop: leading tokens that are read but not put into the prompt (the BOS of a text that is not its first).
        doc_blocks: what of a block that is read by itself, and does not stand first, is read again there.
    """

    ids: tuple[int, ...]
    pattern: Pattern = "causal"
    document: bool = False
    drop: int = 0
    doc_blocks: DocBlocks | None = None

    @property
    def by_itself(self) -> bool:
        """Whether it attends to nothing before it, and so is the same wherever it stands."""
        return self.pattern != "causal"

    @property
    def recomputed(self) -> int:
        """How many of its tokens are read again unless it stands first."""
        return 0 if self.doc_blocks is None else self.doc_blocks.recomputed(len(self.placed))

    @property
    def placed(self) -> tuple[int, ...]:
        """The tokens that become part of the prompt."""
        return self.ids[self.drop :]


@dataclass(frozen=True, slots=True)
class Plan:
    """A prompt: blocks, then the suffix, which has at least one token where something is to be answered."""

    blocks: tuple[PlannedBlock, ...]
    suffix: tuple[int, ...]

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """All tokens of the prompt, in order."""
        return tuple(token for block in self.blocks for token in block.placed) + self.suffix

    def __len__(self) -> int:
        return sum(len(block.placed) for block in self.blocks) + len(self.suffix)


def plan_prompt(parts: Sequence[Part], tokenizer: PromptTokenizer) -> Plan:
    """Return the blocks that `parts` are read in, and the suffix: what stands behind the last cut, some text at least.

    Raises:
        PromptError: a text spells a control sequence that cannot be neutralised.
        CacheError: a text read by itself, of a model whose embeddings no prompt can go on from.
    """
    plan = _planned(parts, tokenizer)
    assert plan.suffix, "a prompt ends with the marker of the assistant's turn"
    return plan


def plan_blocks(parts: Sequence[Part], tokenizer: PromptTokenizer) -> Plan:
    """Return the blocks with which prompts begin that begin with `parts`; what stands behind the last cut is left out.

    Raises:
        PromptError: a text spells a control sequence that cannot be neutralised.
    """
    return Plan(_planned(parts, tokenizer).blocks, ())


def _planned(parts: Sequence[Part], tokenizer: PromptTokenizer) -> Plan:
    blocks: list[PlannedBlock] = []
    ids: list[int] = []
    before: Text | None = None

    def close(*, document: bool) -> None:
        if ids:
            blocks.append(PlannedBlock(tuple(ids), document=document))
            ids.clear()

    for part in parts:
        if isinstance(part, Cut):
            close(document=part.document)
        elif isinstance(part, Embedded):
            close(document=False)
            blocks.append(_embedded(part, tokenizer, first=not blocks))
            before = Segment(part.text, content=True)
        elif isinstance(part, Alone):
            header = tokenizer.encode(part.header)
            first = not blocks and ids == header
            if first:
                ids.clear()  # the block has it
            close(document=False)
            blocks.append(_alone(part, header, tokenizer, drop=0 if first else len(header)))
            before = _BLANK_LINE
        else:
            own = tokenizer.encode_part(part, before)
            done = 0
            for at in tokenizer.token_cuts(part, own, before) if isinstance(part, Segment) and part.cuts else ():
                ids += own[done:at]
                done = at
                close(document=True)
            ids += own[done:]
            before = part
    return Plan(tuple(blocks), tuple(ids))


def _embedded(part: Embedded, tokenizer: PromptTokenizer, *, first: bool) -> PlannedBlock:
    tokenizer.format.check_blocks()
    side: EmbeddingSide = "Document" if part.document else "Query"
    instruction = tokenizer.format.instruction(side, part.instruction)
    ids = embedded_ids(part.text, instruction, side, tokenizer)
    drop = 0 if first else len(tokenizer.bos_ids)
    return PlannedBlock(tuple(ids), tokenizer.format.embedding_pattern, part.document, drop, part.doc_blocks)


def _alone(part: Alone, header: list[int], tokenizer: PromptTokenizer, *, drop: int) -> PlannedBlock:
    content = Segment(part.text, content=True)
    body = [*tokenizer.encode_part(content, part.header[-1]), *tokenizer.encode_part(_BLANK_LINE, content)]
    return PlannedBlock((*header, *body), "alone", document=True, drop=drop, doc_blocks=part.doc_blocks)
