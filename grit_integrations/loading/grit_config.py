"""`grit_config.json`: what a GRIT checkpoint says about itself beyond its architecture, read once and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from grit_integrations.errors import ModelLoadError, PromptError
from grit_integrations.loading.bases import Base
from grit_integrations.options import ORDERS
from grit_integrations.pooling import POOLINGS, is_pooling, pooled_token
from grit_integrations.prompts.formats import check_characters
from grit_integrations.prompts.prompt_format import Markers, PromptFormat, VerdictFormat
from grit_integrations.prompts.turns import marked_turns

if TYPE_CHECKING:
    from grit_integrations.options import Order

GRIT_CONFIG = "grit_config.json"
_REFERENCE = VerdictFormat()
_MARKERS = tuple(marker.name for marker in fields(Markers))


@dataclass(frozen=True, slots=True, kw_only=True)
class GritConfig:
    """The keys of `grit_config.json`, all of them optional; `docs/models.md` has them in a table.

    Attributes:
        format: version of the file.
        base: the file that an adapter was trained on; `None` for whole checkpoints, and where PEFT's own config says.
        golden: known prompts and their token ids.
        markers: what stands in front of texts: `user`, `assistant`, `embed` and, where it is another, `document`.
        turns: how conversations are written: between markers, or as the tokenizer's chat template writes them.
        pooling: how token states become a vector: one of `POOLINGS`, or `token:` and a token of the tokenizer.
        append_eos: whether EOS stands behind the text of an embedding prompt.
        embedding_adapter: folder of a LoRA that is active for embedding alone, beside this file; `.` is this one's.
        attention: over instruction and text when embedding, then when generating, as the reference writes it.
        query_instruction: what queries are embedded under where a caller gives no instruction.
        document_instruction: the same for documents.
        reranking_order: what stands first in a pointwise prompt, of a model that was trained to judge passages.
        reranking_prompt: the user's turn of a pointwise prompt; empty for the words of GritLM's reference.
        reranking_answer: what is put into the assistant's mouth, behind which the verdict stands.
        reranking_words: the verdict's words for yes and no.
    """

    format: Literal[1] = 1
    base: Base | None = None
    golden: Mapping[str, Sequence[int]] = field(default_factory=dict)
    markers: Mapping[str, str] = field(default_factory=dict)
    turns: Literal["grit", "chat_template"] = "grit"
    pooling: str = "mean"
    append_eos: bool = False
    embedding_adapter: str = ""
    attention: Literal["bbcc", "cccc"] = "bbcc"
    query_instruction: str = ""
    document_instruction: str = ""
    reranking_order: Order | None = None
    reranking_prompt: str = _REFERENCE.prompt
    reranking_answer: str = _REFERENCE.answer
    reranking_words: Sequence[str] = (_REFERENCE.yes, _REFERENCE.no)

    @classmethod
    def of(cls, table: Mapping[str, Any], name: str) -> GritConfig:
        """Return the checked contents of the file of the checkpoint `name`; `{}` stands for no file.

        What this version does not know is refused: a guess would be silently wrong.

        Raises:
            ModelLoadError: an unknown key, or a value that a key cannot have.
        """
        known = [key.name for key in fields(cls)]
        unknown = sorted(set(table) - set(known))
        if unknown:
            raise ModelLoadError(
                f"{name}: {GRIT_CONFIG} has {', '.join(unknown)}, which this version does not know. Known are "
                f"{', '.join(known)}: remove the others, or update grit_integrations."
            )
        for key, value in table.items():
            rule = _RULES[key]
            if not rule.allows(value):
                raise ModelLoadError(
                    f"{name}: {GRIT_CONFIG} has {key}={value!r}. It must be {rule.wanted}. Put that there, or update "
                    "grit_integrations."
                )
        base = table.get("base")
        config = cls(**{**table, "base": None if base is None else Base.of(base, name)})
        config._check_together(name)
        return config

    @property
    def prompts(self) -> PromptFormat:
        """What the model's prompts look like, the turns of a chat template left out."""
        markers = Markers(**self.markers)
        return PromptFormat(
            markers=markers,
            turns=marked_turns(markers.user, markers.assistant),
            query_instruction=self.query_instruction,
            document_instruction=self.document_instruction,
            append_eos=self.append_eos,
            embedding_pattern="alone" if self.attention == "cccc" else "bidirectional",
            pooled=pooled_token(self.pooling),
            embeds_apart=bool(self.embedding_adapter),
            verdict=self._verdict,
        )

    @property
    def _verdict(self) -> VerdictFormat:
        yes, no = self.reranking_words
        return VerdictFormat(prompt=self.reranking_prompt, answer=self.reranking_answer, yes=yes, no=no)

    def _check_together(self, name: str) -> None:
        """Refuse keys that contradict each other."""
        if self.attention == "cccc" and (self.pooling == "cls" or self.prompts.marks_header):
            raise ModelLoadError(
                f"{name}: {GRIT_CONFIG} has pooling={self.pooling!r} with attention='cccc', so that the vector would "
                "be the state of a token that stands before the text and sees nothing of it. Name another pooling."
            )
        verdict, order = self._verdict, self.reranking_order
        if self.embedding_adapter and order == "passage-block":
            raise ModelLoadError(
                f"{name}: {GRIT_CONFIG} has reranking_order='passage-block' with an embedding_adapter, which is off "
                "when a verdict is read behind the block. Name another order."
            )
        if verdict.prompt and order and not verdict.serves(order):
            raise ModelLoadError(
                f"{name}: {GRIT_CONFIG} has reranking_order={order!r}, and its reranking_prompt is {verdict.order!r} "
                "(a passage-block begins with {passage}). Name that order, or leave reranking_order out."
            )


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a key may hold, in words and as a check."""

    wanted: str
    allows: Callable[[object], bool]


def are_ids(value: object) -> bool:
    """Return whether `value` is a list of token ids."""
    return isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)


def _one_of(*known: object) -> _Rule:
    shown = ", ".join(map(repr, known))
    return _Rule(
        f"one of {shown}" if len(known) > 1 else shown, lambda value: type(value) in (int, str) and value in known
    )


def _is_text(value: object) -> bool:
    try:
        check_characters(value, "It")
    except PromptError:
        return False
    return True


def _are_markers(value: object) -> bool:
    if not isinstance(value, dict) or not set(_MARKERS).issuperset(value) or not all(map(_is_text, value.values())):
        return False
    return all(value.get(role, role).strip() for role in ("user", "assistant"))


def _is_folder(value: object) -> bool:
    if not isinstance(value, str) or not value or not _is_text(value):
        return False
    path = PurePosixPath(value)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in value


def _is_verdict_prompt(value: object) -> bool:
    return isinstance(value, str) and _is_text(value) and value.count("{query}") == value.count("{passage}") == 1


def _are_words(value: object) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and all(map(_is_text, value)) and "" != value[0] != value[1] != ""
    )


_TEXT = _Rule("a text without NUL and lone surrogates", _is_text)
_RULES = {
    "format": _one_of(1),
    "base": _Rule("an object", lambda value: isinstance(value, dict)),
    "golden": _Rule(
        "an object of known prompts and the token ids that the model was trained with",
        lambda value: isinstance(value, dict) and all(map(are_ids, value.values())),
    ),
    "markers": _Rule(
        f"an object of texts for {', '.join(_MARKERS)}; none but embed and document are empty", _are_markers
    ),
    "turns": _one_of("grit", "chat_template"),
    "pooling": _Rule(f"{_one_of(*POOLINGS).wanted}, or 'token:' and a token of the tokenizer", is_pooling),
    "append_eos": _Rule("true or false", lambda value: isinstance(value, bool)),
    "embedding_adapter": _Rule("the name of a folder beside the file, or '.' for its own", _is_folder),
    "attention": _one_of("bbcc", "cccc"),
    "query_instruction": _TEXT,
    "document_instruction": _TEXT,
    "reranking_order": _one_of(*ORDERS),
    "reranking_prompt": _Rule("a text that has {query} and {passage}, each once", _is_verdict_prompt),
    "reranking_answer": _TEXT,
    "reranking_words": _Rule("two texts that differ, for yes and for no", _are_words),
}
