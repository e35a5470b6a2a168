"""How the turns of a conversation are written: in a model's markers, or as the tokenizer's chat template writes them.

A chat template is a program that writes messages into one string, where a text could pass for control. Here it is run
once, on texts that nobody writes, and cut where these stand: what is left between them is trusted template text, and a
prompt is made of that and of the callers' texts as segments of their own.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grit_integrations.errors import CacheError, ModelLoadError, PromptError
from grit_integrations.prompts.formats import ASSISTANT, USER, Segment, Special, segments, with_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from grit_integrations.prompts.formats import Text

# Who speaks before and who comes: a role, `answer` for what the model is asked to write, and before the first turn
# `start`, or `block` where the conversation stands behind documents that were read by themselves.
Seam = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Turns:
    """What stands around the texts of a conversation.

    Attributes:
        leads: by who speaks before and who comes, such as `("start", "user")` and `("user", "answer")`.
        strips: the roles whose texts lose the white space around them.
        source: the chat template; empty for markers.
    """

    leads: Mapping[Seam, tuple[Text, ...]]
    strips: frozenset[str] = frozenset()
    source: str = ""

    @property
    def has_system(self) -> bool:
        """Whether a system message has a turn of its own; elsewhere it is part of the user's."""
        return ("start", "system") in self.leads

    def lead(self, before: str, after: str) -> list[Text]:
        """Return what stands between two turns.

        Raises:
            PromptError: the chat template has no such conversation.
        """
        found = self.leads.get((before, after))
        if found is None:
            raise PromptError(
                f"This model's chat template has no place for {_COMES[after]} {_BEFORE[before]}. Let the user begin, "
                "let the assistant and the user take turns, and end with the user."
            )
        return list(found)

    def opening(self, words: str = "") -> list[Text]:
        """Return what a prompt begins with: the user's turn up to its text, or up to the text behind `words`."""
        return with_words(self.lead("start", "user"), words)

    def document_header(self) -> list[Text]:
        """Return what a document is read behind that stands in a user's turn and is read by itself.

        Raises:
            CacheError: a user's turn begins with what is tokenised together with the text behind it.
        """
        for (before, after), lead in self.leads.items():
            if after == "user" and before != "block" and not _stands_apart(lead):
                shown = "".join(part.text for part in lead if isinstance(part, Segment))
                raise CacheError(
                    f"A user's turn of this model begins with {shown!r}, which is tokenised together with the text "
                    "behind it: a document has other tokens at the beginning of a turn than elsewhere, and no block "
                    "could stand for it in both places. DocBlocks(pattern='causal') is not possible: use the pattern "
                    "'bidirectional', or caching='prefix'."
                )
        return self.opening()

    def asking(self, words: str = "") -> list[Text]:
        """Return what a prompt ends with: the answer's turn, and `words` that are put into the assistant's mouth."""
        return with_words(self.lead("user", "answer"), words)

    def control_words(self, special: Collection[str]) -> set[str]:
        """Return the markers that are no `special` tokens, so that texts must be kept from spelling them."""
        if not self.source:
            return set()  # markers are control anyway
        texts = (part.text for lead in self.leads.values() for part in lead if isinstance(part, Segment))
        return {word for text in texts for word in _literal_words(text, special)}


_ROLES = {"system": "a system turn", "user": "a user's turn", "assistant": "an assistant's turn"}
_COMES = {**_ROLES, "answer": "an answer"}
_BEFORE = {"start": "at the beginning", "block": "behind documents"} | {
    role: f"behind {words}" for role, words in _ROLES.items()
}


def marked_turns(user: str = USER, assistant: str = ASSISTANT) -> Turns:
    """Return turns between markers, as GritLM has them; EOS ends an answer, and there is no system turn."""
    leads: dict[Seam, tuple[Text, ...]] = {("user", "answer"): (Segment("\n" + assistant),)}
    leads["user", "assistant"] = leads["user", "answer"]
    leads["assistant", "user"] = (Special.EOS, Segment("\n" + user))
    leads["assistant", "answer"] = (Special.EOS, *leads["user", "answer"])
    for role, marker in (("user", user), ("assistant", assistant)):
        leads["start", role] = (Special.BOS, Segment(marker))
        leads["block", role] = (Segment("\n" + marker, fresh=True),)
    return Turns(leads)


def template_turns(tokenizer: PreTrainedTokenizerFast) -> Turns:
    """Return the turns that a tokenizer's chat template writes.

    Raises:
        ModelLoadError: it has no chat template, or one that writes a turn differently from place to place.
    """
    try:
        source = str(tokenizer.get_chat_template())
    except ValueError as error:
        raise ModelLoadError(
            "turns='chat_template', and the tokenizer has no chat template. Put the model's chat_template.jinja beside "
            "its tokenizer, or leave turns out."
        ) from error
    once, whole = _written(tokenizer, ["user"]), _written(tokenizer, ["user", "assistant"] * 2 + ["user"])
    if once is None or whole is None:
        raise _unstable("it does not write a conversation of user and assistant, each text once and in order")
    opening, answered, asked, *_, asking = whole
    if once != [opening, asking] or whole != [opening, answered, asked, answered, asked, asking]:
        raise _unstable("what it writes between two turns depends on which turns they are")
    texts = {("start", "user"): opening, ("user", "assistant"): answered, ("assistant", "user"): asked}
    texts["user", "answer"] = asking
    strips = _stripped(tokenizer, ["user", "assistant", "user"], [opening, answered, asked, asking])
    told = _written(tokenizer, ["system", "user", "assistant", "user"])
    if told is not None and told[2:] == [answered, asked, asking]:  # else it becomes part of the user's turn
        texts["start", "system"], texts["system", "user"] = told[:2]
        strips |= _stripped(tokenizer, ["system", "user", "assistant", "user"], told)
    begin = str(tokenizer.bos_token or "")
    for role in ("user", "system"):
        if ("start", role) in texts:
            texts["block", role] = texts["start", role].removeprefix(begin)
    return Turns({seam: tuple(segments(text)) for seam, text in texts.items()}, strips, source)


def _stands_apart(lead: Sequence[Text]) -> bool:
    """Whether a text has the same tokens behind `lead` as in the middle of a prompt; see `followed_by`."""
    return bool(lead) and isinstance(last := lead[-1], Segment) and not last.text.endswith(" ")


def _unstable(reason: str) -> ModelLoadError:
    return ModelLoadError(
        f"turns='chat_template' is not possible with this tokenizer's chat template: {reason}. Leave turns out, which "
        "writes turns between markers, or give the model a simpler template."
    )


def _written(tokenizer: PreTrainedTokenizerFast, roles: Sequence[str], *, space: str = "") -> list[str] | None:
    """Return what a template writes before, between and behind texts; `None` if one is missing, or it refuses them."""
    texts = [f"\ue000{number}\ue001" for number in range(len(roles))]
    messages = [{"role": role, "content": space + text + space} for role, text in zip(roles, texts, strict=True)]
    try:
        shown: Any = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception:  # whatever a template raises about roles that it does not know
        return None
    pieces = re.split("\ue000([0-9]+)\ue001", str(shown))
    return pieces[::2] if pieces[1::2] == [str(number) for number in range(len(roles))] else None


def _stripped(tokenizer: PreTrainedTokenizerFast, roles: Sequence[str], pieces: Sequence[str]) -> frozenset[str]:
    """Return the roles whose texts lose the spaces around them."""
    found = _written(tokenizer, roles, space=" ")
    known = sorted(set(roles))
    for count in range(len(known) + 1):
        for stripped in itertools.combinations(known, count):
            spaces = ["" if role in stripped else " " for role in roles]
            around = zip(["", *spaces], pieces, [*spaces, ""], strict=True)
            if found == [before + piece + after for before, piece, after in around]:
                return frozenset(stripped)
    raise _unstable("it changes the white space around a text on one side only")


def _literal_words(text: str, special: Collection[str]) -> Iterator[str]:
    """Yield what stands for a marker between special tokens: `[INST]` and `### Response:`, but no bare word."""
    known = sorted((word for word in special if word), key=len, reverse=True)
    pieces = re.split("|".join(map(re.escape, known)), text) if known else [text]
    for line in (line.strip() for piece in pieces for line in piece.splitlines()):
        if any(map(str.isalpha, line)) and not (line[0].isalnum() and line[-1].isalnum()):
            yield line
    if len(pieces) == 1 and text.strip().isalnum():
        yield text.strip(" ")  # with its line breaks: a bare word is a marker in a line of its own alone
