"""Where documents stand in a generation prompt, and where the blocks of the KV cache end, for each caching mode.

The modes and their words are those of the GRIT paper (section 4.2; GritLM README and `rag/eval.py`). What several
documents and earlier turns do is ours, since the paper has neither: `docs/caching.md` draws every mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from grit_integrations.doc_blocks import PLAIN
from grit_integrations.errors import PromptError
from grit_integrations.options import MODES
from grit_integrations.prompts.formats import (
    AFTER_DOCUMENTS,
    AFTER_QUERY,
    Alone,
    Cut,
    Embedded,
    Message,
    Part,
    Segment,
    followed_by,
)
from grit_integrations.prompts.turns import marked_turns
from grit_integrations.prompts.verbatim import find_verbatim

if TYPE_CHECKING:
    from grit_integrations.doc_blocks import DocBlocks
    from grit_integrations.options import Caching
    from grit_integrations.prompts.formats import Text
    from grit_integrations.prompts.turns import Turns
    from grit_integrations.prompts.verbatim import Span

Parts = list[Part]

GRIT = marked_turns()

_WORTH_A_BLOCK = 256  # characters before a document in a message, below which they are read together with it


def lay_out(
    turns: Sequence[Message],
    documents: Sequence[str] = (),
    *,
    form: Turns = GRIT,
    caching: Caching = "off",
    known: Sequence[str] = (),
    query_instruction: str | None = None,
    doc_blocks: DocBlocks = PLAIN,
) -> Parts:
    """Return the parts of a generation prompt, with a cut wherever a block of the KV cache ends.

    Documents stand in front of the conversation and the first user turn asks about them (in the `query` modes the
    last one), so that later turns leave the beginning of the prompt as it was. The parts behind the last cut are no
    block: they are read for each answer.

    Args:
        turns: the conversation, merged to alternating turns.
        documents: texts to answer from, none of them blank; then there is a user turn that asks about them.
        form: how the turns are written; by default as GritLM's are.
        caching: `"off"` and `"prefix"` have one and the same prompt; the others put texts read bidirectionally in it.
        known: texts that may stand verbatim in a user turn; one that does is a block of its own there.
        query_instruction: what the query was embedded under (`query` modes only).
        doc_blocks: how documents are read in `"doc"` mode.

    Raises:
        PromptError: a `query` mode, and a conversation that does not end with the user's question; or a conversation
            that the model's chat template does not know.
        CacheError: `doc_blocks` that a model with such turns cannot have.
    """
    mode, own, embeds = MODES[caching], doc_blocks.under(caching), doc_blocks.embeds(caching)
    if not documents:
        parts = _conversation(turns, form)
    elif mode.embeds_query:
        parts = _query_parts(turns, documents, form, caching, query_instruction)
    elif embeds:
        asked = _conversation(turns, form, behind_block=True, after_question=AFTER_DOCUMENTS)
        parts = [*_embedded(documents, own), *asked]
    else:
        read = _in_the_turn(documents, form, caching, own)
        parts = _conversation(turns, form, before_question=read, after_question=AFTER_DOCUMENTS)
    others = [text for text in known if text not in documents]
    embedded = own if embeds and mode.embeds_in_place else None
    return [piece for part in parts for piece in _with_known(part, others, embedded)]


def lay_out_documents(
    documents: Sequence[str], *, form: Turns, caching: Caching, doc_blocks: DocBlocks = PLAIN
) -> Parts:
    """Return the parts with which every prompt about `documents` begins, in a mode that keeps their blocks.

    Raises:
        CacheError: `doc_blocks` that a model with such turns cannot have.
    """
    own = doc_blocks.under(caching)
    if doc_blocks.embeds(caching):
        return _embedded(documents, own)
    return _opened(form.opening(), _in_the_turn(documents, form, caching, own))


def _conversation(
    turns: Sequence[Message],
    form: Turns,
    *,
    behind_block: bool = False,
    before_question: Sequence[Part] = (),
    after_question: str = "",
) -> Parts:
    """Return the turns, ending where the assistant's next one begins.

    A block ends before each answer already given, and behind a system turn.
    """
    parts: Parts = []
    before = "block" if behind_block else "start"
    asked = False
    for turn in turns:
        text = turn.content.strip() if turn.role in form.strips else turn.content
        lead = form.lead(before, turn.role)
        cut = [Cut()] if before in _ROLES and turn.role == "assistant" else []
        if turn.role == "user" and after_question and not asked:
            asked = True
            parts += [*_asked(lead, before_question, text), Segment("\n\n" + after_question)]
        else:
            *words, content = followed_by(lead, text)
            parts += [*words, *cut, content]
        parts += [Cut()] if turn.role == "system" else []
        before = turn.role
    return [*parts, *form.lead(before, "answer")]


_ROLES = ("system", "user", "assistant")


def _asked(lead: Sequence[Text], documents: Sequence[Part], question: str) -> Parts:
    """Return a user's turn that asks about documents, which stand before the question."""
    if not documents:
        return [*followed_by(lead, question)]
    return [*_opened(lead, documents), Segment(question, content=True)]


def _opened(lead: Sequence[Text], documents: Sequence[Part]) -> Parts:
    first, *others = documents
    return [*followed_by(lead, first.text), *others] if isinstance(first, Segment) else [*lead, *documents]


def _in_the_turn(texts: Sequence[str], form: Turns, caching: Caching, doc_blocks: DocBlocks) -> Parts:
    """Return documents that stand in the user's turn, each followed by a blank line."""
    if MODES[caching].embeds_documents:
        header = tuple(form.document_header())
        return [Alone(text, header, doc_blocks) for text in texts]
    parts: Parts = []
    for text in texts:
        parts += [Segment(text, content=True), Cut(document=True), Segment("\n\n")]
    return parts


def _embedded(texts: Sequence[str], doc_blocks: DocBlocks = PLAIN) -> Parts:
    return [Embedded(text, doc_blocks=doc_blocks) for text in texts]


def _query_parts(
    turns: Sequence[Message], texts: Sequence[str], form: Turns, caching: Caching, instruction: str | None
) -> Parts:
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
    return [*blocks, *_conversation([*earlier, Message("user", request)], form, behind_block=True)]


def _with_known(part: Part, known: Sequence[str], embedded: DocBlocks | None) -> Parts:
    """Split a user's text where documents stand verbatim in it.

    A causal block may end anywhere, so there the text stays one segment with the same token ids and only cuts are
    added. One that is `embedded` is a text of its own.
    """
    spans = find_verbatim(part.text, known) if isinstance(part, Segment) and part.content else []
    if not spans or not isinstance(part, Segment):
        return [part]
    if embedded is not None:
        return _embedded_in_place(part.text, spans, embedded)
    cuts: list[int] = []
    end = 0
    for span in spans:
        if span.start - end >= _WORTH_A_BLOCK:
            cuts.append(span.start)
        cuts.append(span.stop)
        end = span.stop
    return [replace(part, cuts=tuple(cuts))]


def _embedded_in_place(text: str, spans: Sequence[Span], doc_blocks: DocBlocks) -> Parts:
    parts: Parts = []
    end = 0
    for span in spans:
        document = Embedded(text[span.start : span.stop], doc_blocks=doc_blocks)
        parts += [Segment(text[end : span.start], content=True), Cut(), document]
        end = span.stop
    parts.append(Segment(text[end:], content=True))
    return [part for part in parts if not (isinstance(part, Segment) and not part.text)]
