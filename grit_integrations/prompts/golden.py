"""Known prompts and their token ids: the check that a tokenizer is the one that the model was trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from grit_integrations.errors import ModelLoadError
from grit_integrations.prompts.formats import EMBED, USER, Message, Segment, Special, followed_by, segments
from grit_integrations.prompts.layout import lay_out
from grit_integrations.prompts.plan import plan_prompt

if TYPE_CHECKING:
    from grit_integrations.prompts.formats import Text
    from grit_integrations.prompts.prompt_format import Markers
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
    markers = tokenizer.format.markers
    for header in dict.fromkeys((markers.of("Query"), markers.of("Document"), markers.user)):
        text = f"{header}hello"
        joint = list(tokenizer.hf(text).input_ids)
        split = golden_ids(tokenizer, text)
        if joint != split:
            raise ModelLoadError(
                f"The tokenizer gives {joint} for {text!r} in one piece and {split} segment by segment, so a text has "
                "no ids of its own. GRIT models need a tokenizer that never merges across a newline, and markers that "
                "end with one."
            )


# A conversation in words that every tokenizer has, in all the turns that a template may write.
_CONVERSATION = (
    Message("system", "Be brief."),
    Message("user", "Hello there."),
    Message("assistant", "Hi."),
    Message("user", "What is 2 + 2?"),
)


def check_template(tokenizer: PromptTokenizer) -> None:
    """Refuse a chat template whose turns get other ids than transformers gives the whole conversation.

    Raises:
        ModelLoadError: with both.
    """
    form = tokenizer.format.turns
    turns = _CONVERSATION if form.has_system else _CONVERSATION[1:]
    shown = [{"role": turn.role, "content": turn.content} for turn in turns]
    wanted = tokenizer.hf.apply_chat_template(shown, add_generation_prompt=True, tokenize=True, return_dict=False)
    found = list(plan_prompt(lay_out(turns, form=form), tokenizer).prompt_ids)
    if found != list(wanted):
        raise ModelLoadError(
            f"turns='chat_template' is not possible: for {shown} the tokenizer gives {list(wanted)} in one piece and "
            f"{found} turn by turn, so that the model would read what it was not trained on. Leave turns out."
        )


def golden_ids(tokenizer: PromptTokenizer, text: str) -> list[int]:
    """Return the ids of a known prompt, segment by segment as training and inference have them."""
    markers = tokenizer.format.markers
    if text.startswith(markers.assistant):
        return tokenizer.continued(text)
    return tokenizer.encode(_parts(text, markers))


def _parts(text: str, markers: Markers) -> Sequence[Text]:
    """Cut a known prompt where its markers begin and end."""
    user, embed = markers.user, markers.embed
    header, marker, body = text.partition("\n" + embed)
    if embed and marker and header.startswith(user):
        parts = [*followed_by([Special.BOS, Segment(user)], header[len(user) :]), Segment(marker)]
    else:
        starts = (marker for marker in (user, embed, markers.document) if marker and text.startswith(marker))
        head = next(starts, "")
        parts, body = [Special.BOS, *segments(head)], text[len(head) :]
    return followed_by(parts, body) if body else parts
