"""Every prompt format of GritLM, as segments of trusted template and untrusted content.

A prompt is a list of segments. Each is tokenised on its own and the ids are joined (see `tokenization.py`), so a text
has the same ids wherever it stands in a prompt. Formats: GritLM README and `training/run.py` (`BASE_BOS`, `USER_BOS`,
`EMBED_BOS`, `TURN_SEP`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, get_args

from grit_integrations.errors import EmptyTextError, PromptError

if TYPE_CHECKING:
    from grit_integrations.doc_blocks import DocBlocks

USER = "<|user|>\n"
ASSISTANT = "<|assistant|>\n"
EMBED = "<|embed|>\n"
AFTER_DOCUMENTS = "Answer the prior query while optionally using the context prior to it"
AFTER_QUERY = "Optionally using the prior context answer the query prior to it"
MARKERS = ("<|user|>", "<|assistant|>", "<|embed|>")

ZERO_WIDTH_SPACE = "\u200b"

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)


class Special(Enum):
    """A control token of the tokenizer itself; the only way one enters a prompt."""

    BOS = "bos"
    EOS = "eos"


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of prompt text. Content comes from users and documents and is neutralised; template text is ours.

    Attributes:
        text: the characters.
        content: whether it is untrusted.
        fresh: tokenise as a text of its own although it continues a prompt, as the reference does behind cached blocks.
        cuts: character positions at which a block of the KV cache ends; they change no token id.
    """

    text: str
    content: bool = False
    fresh: bool = False
    cuts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a block of the KV cache ends; `document` says that what it ends with is worth keeping on disk."""

    document: bool = False


@dataclass(frozen=True, slots=True)
class Embedded:
    """A text read with bidirectional attention, by itself, as an embedding prompt: the paper's cached text.

    `document` says whether it is one, and so worth keeping on disk; else it is a query. Without an instruction it is
    embedded under the model's own, as `GritLM.embed_documents` and `embed_queries` do. `doc_blocks` says what of it is
    read again in its place; without it, nothing.
    """

    text: str
    instruction: str | None = None
    document: bool = True
    doc_blocks: DocBlocks | None = None


@dataclass(frozen=True, slots=True)
class Alone:
    """A document read causally, by itself, behind `header`: a prompt's beginning up to the text of a user's turn.

    A blank line ends it. `doc_blocks` says what of it is read again in its place.
    """

    text: str
    header: tuple[Text, ...]
    doc_blocks: DocBlocks


Text = Special | Segment  # what stands in a prompt as it is
Part = Text | Cut | Embedded | Alone


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


Messages = str | Sequence[Message | Mapping[str, str]]


def with_words(parts: Sequence[Text], words: str) -> list[Text]:
    """Return `parts` with words of ours behind them, which are tokenised with the last of them."""
    if words and parts and isinstance(last := parts[-1], Segment):
        return [*parts[:-1], replace(last, text=last.text + words)]
    return [*parts, *segments(words)]


def followed_by(parts: Sequence[Text], text: str) -> list[Text]:
    """Return `parts` with a caller's text behind them, which takes their last space: so one string is tokenised."""
    if parts and isinstance(last := parts[-1], Segment) and not last.content and last.text.endswith(" "):
        return [*parts[:-1], *segments(last.text[:-1], fresh=last.fresh), Segment(" " + text, content=True)]
    return [*parts, Segment(text, content=True)]


def segments(text: str, *, fresh: bool = False) -> list[Text]:
    """Return template text as a segment; nothing for no text."""
    return [Segment(text, fresh=fresh)] if text else []


def rag_prompt(query: str, documents: Sequence[str]) -> str:
    """Return the user turn that asks `query` of `documents`, in the order and words GritLM's paper uses for RAG."""
    context = "\n\n".join(documents)
    return f"{context}\n\n{query}\n\n{AFTER_DOCUMENTS}"


def as_messages(messages: Messages) -> list[Message]:
    """Return `messages` as `Message` objects; a string is one user turn, a mapping needs `role` and `content`."""
    given = [Message("user", messages)] if isinstance(messages, str) else as_list(messages, "messages")
    return [_as_message(message, index) for index, message in enumerate(given)]


def merge_turns(messages: Messages, *, system: bool = False) -> list[Message]:
    """Return alternating turns: system turns folded into user turns, blank turns dropped, neighbours of a role merged.

    GritLM was trained without a system role, on alternating turns. Merged texts are separated by a blank line.

    Args:
        messages: the conversation.
        system: whether system messages that it begins with have a turn of their own, if anything follows them.

    Raises:
        EmptyTextError: no message has any text.
        PromptError: a message without role and content, or with another role.
    """
    merged: list[Message] = []
    given = [message for message in as_messages(messages) if message.content.strip()]
    own = system and any(message.role != "system" for message in given)
    for message in given:
        own = own and message.role == "system"
        role: Role = "system" if own else "assistant" if message.role == "assistant" else "user"
        if merged and merged[-1].role == role:
            merged[-1] = Message(role, f"{merged[-1].content}\n\n{message.content}")
        else:
            merged.append(Message(role, message.content))
    if not merged:
        raise EmptyTextError("The messages hold no text. Give at least one message that is not blank.")
    return merged


def as_list(given: object, what: str) -> list[Any]:
    """Return what a caller gave as `what`, such as `"documents"`: read once, since an iterator can be read only once.

    Raises:
        PromptError: one text, a mapping, or nothing that could be read one after the other.
    """
    if isinstance(given, str):
        raise PromptError(f"One string was given where a list of {what} is wanted. Put it in a list: [text].")
    if isinstance(given, bytes | bytearray | Mapping) or not isinstance(given, Iterable):
        raise PromptError(f"A {type(given).__name__} was given where a list of {what} is wanted. Give a list of them.")
    return list(given)


def check_text(text: object, where: str) -> str:
    """Return `text` if a prompt can hold it.

    Raises:
        PromptError: not a string, a NUL character, or a lone surrogate.
        EmptyTextError: empty or only white space.
    """
    checked = check_characters(text, where)
    if not checked.strip():
        raise EmptyTextError(f"{where} is empty or only white space. Remove it or give it some text.")
    return checked


def check_characters(text: object, where: str) -> str:
    """Return `text` if it is a string that can be encoded; blank text passes."""
    if not isinstance(text, str):
        raise PromptError(f"{where} is a {type(text).__name__}, not a string. Convert it to text first.")
    if "\x00" in text:
        raise PromptError(f"{where} has a NUL character at position {text.index(chr(0))}. Remove it: text has none.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(
            f"{where} has a lone surrogate at position {error.start} and is not valid Unicode. "
            "Decode the source as UTF-8 with errors='replace'."
        ) from None
    return text


def neutralise(text: str, control: Collection[str] = MARKERS) -> str:
    """Return `text` with a zero-width space inside every spelled-out control sequence.

    The words stay readable and nothing else changes, but the sequence can no longer become a control token or the
    ids of a marker.

    >>> neutralise("say <|user|> twice").replace("\\u200b", "·")
    'say <·|user|> twice'
    """
    pattern = re.compile("|".join(re.escape(word) for word in sorted(control, key=len, reverse=True)))
    while pattern.search(text):
        text = pattern.sub(lambda match: match[0][0] + ZERO_WIDTH_SPACE + match[0][1:], text)
    return text


def _as_message(message: Message | Mapping[str, str], index: int) -> Message:
    where = f"Message {index}"
    if isinstance(message, Mapping):
        missing = {"role", "content"} - set(message)
        if missing:
            raise PromptError(f"{where} has no {' and no '.join(sorted(missing))}. Give both role and content.")
        message = Message(message["role"], message["content"])  # type: ignore[arg-type]  # the role is checked below
    if not isinstance(message, Message):
        raise PromptError(f"{where} is a {type(message).__name__}. Give a Message, or a mapping with role and content.")
    if message.role not in ROLES:
        raise PromptError(f"{where} has the role {message.role!r}. Use one of {', '.join(ROLES)}.")
    check_characters(message.content, where)
    return message
