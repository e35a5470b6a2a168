"""Prompt parts to a plan of token blocks."""

from __future__ import annotations

from collections.abc import Sequence

from grit_integrations.prompts.formats import Cut, Embedded, Part, Segment, Text, embedding_header
from grit_integrations.prompts.plan import Plan, PlannedBlock
from grit_integrations.prompts.tokenizer import PromptTokenizer


def plan_prompt(parts: Sequence[Part], tokenizer: PromptTokenizer) -> Plan:
    """Return the blocks that `parts` are read in. The parts behind the last cut must hold text: they are the suffix.

    Raises:
        PromptError: a text spells a control sequence that cannot be neutralised.
    """
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
            before = Segment(part.text)
        else:
            own = tokenizer.encode_part(part, before)
            done = 0
            for at in tokenizer.token_cuts(part, own, before) if isinstance(part, Segment) and part.cuts else ():
                ids += own[done:at]
                done = at
                close(document=True)
            ids += own[done:]
            before = part
    assert ids, "a prompt ends with the marker of the assistant's turn"
    return Plan(tuple(blocks), tuple(ids))


def embedded_ids(text: str, instruction: str, tokenizer: PromptTokenizer) -> list[int]:
    """Return the ids of an embedding prompt: header and text."""
    return tokenizer.encode([*embedding_header(instruction), Segment(text, content=True)])


def _embedded(part: Embedded, tokenizer: PromptTokenizer, *, first: bool) -> PlannedBlock:
    ids = embedded_ids(part.text, part.instruction, tokenizer)
    drop = 0 if first else len(tokenizer.bos_ids)
    return PlannedBlock(tuple(ids), "bidirectional", part.document, drop)
