"""Where documents stand in a generation prompt, and where the blocks of the KV cache end, for each caching mode.

The modes and their words are those of the GRIT paper (section 4.2; GritLM README and `rag/eval.py`). What several
documents and earlier turns do is ours, since the paper has neither: `docs/caching.md` draws every mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from grit_integrations.errors import PromptError
from grit_integrations.options import MODES
from grit_integrations.prompts.formats import (
    AFTER_DOCUMENTS,
    AFTER_QUERY,
    ASSISTANT,
    USER,
    Cut,
    Embedded,
    Message,
    Part,
    Segment,
    Special,
)
from grit_integrations.prompts.verbatim import find_verbatim

if TYPE_CHECKING:
    from grit_integrations.options import Caching
    from grit_integrations.prompts.verbatim import Span

Parts = list[Part]

_WORTH_A_BLOCK = 256  # characters before a document in a message, below which they are read together with it


def lay_out(
    turns: Sequence[Message],
    documents: Sequence[str] = (),
    *,
    caching: Caching = "off",
    known: Sequence[str] = (),
    query_instruction: str = "",
) -> Parts:
    """Return the parts of a generation prompt, with a cut wherever a block of the KV cache ends.

    Documents stand in front of the conversation and the first user turn asks about them (in the `query` modes the
    last one), so that later turns leave the beginning of the prompt as it was. The parts behind the last cut are no
    block: they are read for each answer.

    Args:
        turns: the conversation, merged to alternating turns.
        documents: texts to answer from, none of them blank; then there is a user turn that asks about them.
        caching: `"off"` and `"prefix"` have one and the same prompt; the others put texts read bidirectionally in it.
        known: texts that may stand verbatim in a user turn; one that does is a block of its own there.
        query_instruction: what the query was embedded under (`query` modes only).

    Raises:
        PromptError: a `query` mode, and a conversation that does not end with the user's question.
    """
    mode = MODES[caching]
    if not documents:
        parts = [Special.BOS, *_conversation(turns)]
    elif mode.embeds_query:
        parts = _query_parts(turns, documents, caching, query_instruction)
    elif mode.embeds_documents:
        parts = [*_embedded(documents), *_conversation(turns, behind_block=True, after_question=AFTER_DOCUMENTS)]
    else:
        parts = [Special.BOS, *_conversation(turns, before_question=documents, after_question=AFTER_DOCUMENTS)]
    others = [text for text in known if text not in documents]
    return [piece for part in parts for piece in _with_known(part, others, caching)]


def lay_out_documents(documents: Sequence[str], *, caching: Caching) -> Parts:
    """Return the parts with which every prompt about `documents` begins, in a mode that keeps their blocks."""
    if MODES[caching].embeds_documents:
        return _embedded(documents)
    return [Special.BOS, Segment(USER), *_causal_documents(documents)]


def _conversation(
    turns: Sequence[Message],
    *,
    behind_block: bool = False,
    before_question: Sequence[str] = (),
    after_question: str = "",
) -> Parts:
    """Return the turns, ending where the assistant's next one begins; a block ends before each answer already given."""
    parts: Parts = []
    asked = False
    for turn in turns:
        first = not parts
        lead = "" if first and not behind_block else "\n"
        marker = Segment(lead + (USER if turn.role == "user" else ASSISTANT), fresh=first and behind_block)
        content = Segment(turn.content, content=True)
        if turn.role == "assistant":
            parts += [marker, *([] if first else [Cut()]), content, Special.EOS]
        elif asked or not after_question:
            parts += [marker, content]
        else:
            asked = True
            parts += [marker, *_causal_documents(before_question), content, Segment("\n\n" + after_question)]
    parts.append(Segment("\n" + ASSISTANT))
    return parts


def _causal_documents(texts: Sequence[str]) -> Parts:
    parts: Parts = []
    for text in texts:
        parts += [Segment(text, content=True), Cut(document=True), Segment("\n\n")]
    return parts


def _embedded(texts: Sequence[str]) -> Parts:
    return [Embedded(text) for text in texts]


def _query_parts(turns: Sequence[Message], texts: Sequence[str], caching: Caching, instruction: str) -> Parts:
    """Return the paper's query, query-doc and doc-query prompts; earlier turns stand between blocks and request."""
    *earlier, question = turns
    if question.role != "user":
        raise PromptError(f"caching={caching!r} needs a conversation that ends with the user's question.")
    embedded = MODES[caching].embedded
    query: Parts = [Embedded(question.content, instruction, document=False)]
    blocks = [part for kind in embedded for part in (query if kind == "query" else _embedded(texts))]
    request = AFTER_DOCUMENTS if embedded == ("documents", "query") else AFTER_QUERY
    if "documents" not in embedded:
        request = "\n\n".join([*texts, request])
    return [*blocks, *_conversation([*earlier, Message("user", request)], behind_block=True)]


def _with_known(part: Part, known: Sequence[str], caching: Caching) -> Parts:
    """Split a user's text where documents stand verbatim in it.

    A causal block may end anywhere, so there the text stays one segment with the same token ids and only cuts are
    added. A bidirectional one is a text of its own.
    """
    spans = find_verbatim(part.text, known) if isinstance(part, Segment) and part.content else []
    if not spans or not isinstance(part, Segment):
        return [part]
    if MODES[caching].embeds_in_place:
        return _embedded_in_place(part.text, spans)
    cuts: list[int] = []
    end = 0
    for span in spans:
        if span.start - end >= _WORTH_A_BLOCK:
            cuts.append(span.start)
        cuts.append(span.stop)
        end = span.stop
    return [replace(part, cuts=tuple(cuts))]


def _embedded_in_place(text: str, spans: Sequence[Span]) -> Parts:
    parts: Parts = []
    end = 0
    for span in spans:
        parts += [Segment(text[end : span.start], content=True), Cut(), Embedded(text[span.start : span.stop])]
        end = span.stop
    parts.append(Segment(text[end:], content=True))
    return [part for part in parts if not (isinstance(part, Segment) and not part.text)]
