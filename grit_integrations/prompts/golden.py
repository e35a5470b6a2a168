"""Known prompts and their token ids: the check that a tokenizer is the one that the model was trained with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from grit_integrations.errors import ModelLoadError
from grit_integrations.prompts.formats import ASSISTANT, EMBED, USER, Segment, Special

if TYPE_CHECKING:
    from grit_integrations.prompts.tokenizer import PromptTokenizer

# Ids of the Mistral-7B-v0.1 vocabulary, which GritLM-7B and 8x7B use (gritlm, llama.cpp and vLLM agree on them).
MISTRAL_GOLDEN: Mapping[str, Sequence[int]] = {
    EMBED: (1, 523, 28766, 18320, 28766, 28767, 13),
    f"{USER}Instr.\n{EMBED}hello": (
        *(1, 523, 28766, 1838, 28766, 28767, 13, 657, 1042, 28723, 13),
        *(28789, 28766, 18320, 28766, 28767, 13, 21558),
    ),
    f"{USER}hello": (1, 523, 28766, 1838, 28766, 28767, 13, 21558),
}


def check_golden(tokenizer: PromptTokenizer, golden: Mapping[str, Sequence[int]]) -> None:
    """Refuse a tokenizer that gives other ids for the known prompts than the model was trained with.

    `golden` maps prompt text to ids; a prompt that begins with `<|assistant|>` continues and has no BOS.

    Raises:
        ModelLoadError: with the prompt, the ids found and the ids wanted.
    """
    for text, wanted in golden.items():
        found = golden_ids(tokenizer, text)
        if found != list(wanted):
            raise ModelLoadError(
                f"The tokenizer gives {found} for {text!r}; the model was trained with {list(wanted)}. Embeddings "
                "would be silently wrong. Put the model's own tokenizer.json beside its weights (with only "
                "tokenizer.model, a tokenizer without the leading '▁' is built)."
            )


def check_boundaries(tokenizer: PromptTokenizer) -> None:
    """Refuse a tokenizer that merges a marker's newline with the text behind it (for models without golden ids)."""
    for header in (EMBED, USER):
        text = f"{header}hello"
        joint = list(tokenizer.hf(text).input_ids)
        split = golden_ids(tokenizer, text)
        if joint != split:
            raise ModelLoadError(
                f"The tokenizer gives {joint} for {text!r} in one piece and {split} segment by segment, so a text has "
                "no ids of its own. GRIT models need a tokenizer that never merges across a newline."
            )


def golden_ids(tokenizer: PromptTokenizer, text: str) -> list[int]:
    """Return the ids of a known prompt, segment by segment as training and inference have them."""
    if text.startswith(ASSISTANT):
        return tokenizer.continued(text)
    return tokenizer.encode([Special.BOS, *_segments(text)])


def _segments(text: str) -> Iterator[Segment]:
    """Cut a known prompt where its markers begin and end."""
    header, marker, body = text.partition("\n" + EMBED)
    if marker and header.startswith(USER):
        yield from (Segment(USER), Segment(header[len(USER) :], content=True), Segment(marker))
    elif text.startswith((USER, EMBED)):
        head = USER if text.startswith(USER) else EMBED
        yield Segment(head)
        body = text[len(head) :]
    else:
        body = text
    if body:
        yield Segment(body, content=True)
