"""What the prompts of one model look like where models differ: GritLM's own, unless its checkpoint says otherwise."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from grit_integrations.errors import CacheError
from grit_integrations.prompts.formats import ASSISTANT, EMBED, USER, Segment, Special, followed_by, segments
from grit_integrations.prompts.turns import marked_turns

if TYPE_CHECKING:
    from grit_integrations.options import Order
    from grit_integrations.prompts.formats import Text
    from grit_integrations.prompts.turns import Turns

EmbeddingSide = Literal["Query", "Document"]  # of an embedding: what searches, and what is found
Pattern = Literal["causal", "bidirectional", "alone"]  # what the tokens of a block attend to; see `PlannedBlock`


@dataclass(frozen=True, slots=True, kw_only=True)
class Markers:
    """What stands in front of texts; each ends with what parts it from the text, a newline as a rule.

    Attributes:
        user: a user's turn, and an instruction.
        assistant: an assistant's turn.
        embed: a text that is embedded; empty if nothing stands there.
        document: a document that is embedded; `None` if it is the same.
    """

    user: str = USER
    assistant: str = ASSISTANT
    embed: str = EMBED
    document: str | None = None

    def of(self, side: EmbeddingSide) -> str:
        """Return the marker of a text that is embedded."""
        return self.embed if self.document is None or side == "Query" else self.document

    def words(self) -> set[str]:
        """Return the markers as texts may not spell them."""
        shown = (self.user, self.assistant, self.embed, self.document or "")
        return {marker.strip() for marker in shown if marker.strip()}


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictFormat:
    """How a model is asked whether a passage is relevant to a query, and in which words it answers.

    Attributes:
        prompt: the user's turn, with `{query}` and `{passage}` once each; empty for the words of GritLM's reference.
        answer: what is put into the assistant's mouth.
        yes: the word behind it by which the model says that the passage is relevant; one token.
        no: the same that it is not.
    """

    prompt: str = ""
    answer: str = "Answer:"
    yes: str = " yes"
    no: str = " no"

    @property
    def order(self) -> Order:
        """What stands first in the prompt."""
        return "passage-first" if self.prompt.find("{passage}") < self.prompt.find("{query}") else "query-first"

    def serves(self, order: Order) -> bool:
        """Return whether the model's own prompt can be read in an order: as a block only what begins with the passage.

        >>> own = VerdictFormat(prompt="{passage}\\n\\nDoes it answer {query}?")
        >>> own.serves("passage-first"), own.serves("passage-block"), own.serves("query-first")
        (True, True, False)
        """
        if not self.prompt:
            return False
        return self.prompt.startswith("{passage}") if order == "passage-block" else order == self.order


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFormat:
    """What the prompts of one model look like; the defaults are GritLM's.

    Attributes:
        markers: what stands in front of texts.
        turns: how conversations are written.
        query_instruction: what queries are embedded under where a caller gives no instruction.
        document_instruction: the same for documents.
        append_eos: whether EOS stands behind the text of an embedding prompt.
        embedding_pattern: what the tokens of an embedding prompt attend to: all of them, or those before.
        pooled: the token whose state is a text's vector; empty where other states are pooled.
        verdict: how a passage is judged.
        embeds_apart: whether an adapter is active for embedding alone, so that no prompt can go on from such a pass.
    """

    markers: Markers = field(default_factory=Markers)
    turns: Turns = field(default_factory=marked_turns)
    query_instruction: str = ""
    document_instruction: str = ""
    append_eos: bool = False
    embedding_pattern: Literal["bidirectional", "alone"] = "bidirectional"
    pooled: str = ""
    verdict: VerdictFormat = field(default_factory=VerdictFormat)
    embeds_apart: bool = False

    def check_blocks(self) -> None:
        """Refuse to make the pass of an embedding the block of a prompt, of models whose adapter does not allow it.

        Raises:
            CacheError: with the reason, and what can be used instead.
        """
        if self.embeds_apart:
            raise CacheError(
                "This model embeds with an adapter that is off when it generates, so that nothing can go on from the "
                "keys and values of an embedding. Modes of caching that read documents or questions by themselves, "
                "and order='passage-block', are not possible: use caching='prefix' or 'off', or caching='doc' with "
                "doc_blocks=DocBlocks(pattern='causal')."
            )

    @property
    def marks_header(self) -> bool:
        """Whether the pooled token is the embedding marker; any other stands behind the text."""
        return bool(self.pooled) and {self.markers.of(side).strip() for side in ("Query", "Document")} == {self.pooled}

    def instruction(self, side: EmbeddingSide, given: str | None = None) -> str:
        """Return what a text is embedded under: what the caller gave (`""` is none), else the model's own.

        >>> model = PromptFormat(query_instruction="Find passages")
        >>> model.instruction("Query"), model.instruction("Query", "Find code"), model.instruction("Query", "")
        ('Find passages', 'Find code', '')
        """
        if given is not None:
            return given
        return self.query_instruction if side == "Query" else self.document_instruction

    def embedding_header(self, instruction: str = "", side: EmbeddingSide = "Query") -> list[Text]:
        """Return what stands before the text in an embedding prompt; it is attended to and never pooled."""
        marker = self.markers.of(side)
        if not instruction:
            return [Special.BOS, *segments(marker)]
        opened = followed_by([Special.BOS, Segment(self.markers.user)], instruction)
        return [*opened, Segment("\n" + marker)]

    def control_words(self, special: Collection[str]) -> frozenset[str]:
        """Return what no text may spell beside the tokenizer's own `special` tokens: markers, and the template's."""
        return frozenset(self.markers.words() | self.turns.control_words(special))
