"""What is measured, and on how much. Checked before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from grit_integrations.errors import OptionError
from grit_integrations.options import CACHINGS, Caching, QuoteMethod, Quoting

EvaluationPart = Literal["retrieval", "answers", "refusal", "perplexity", "triples"]
PARTS: tuple[EvaluationPart, ...] = get_args(EvaluationPart)
QUOTES = ("tokens", "spans", "spans:1")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOptions:
    """What is measured, and on how much.

    Attributes:
        parts: what to measure.
        sets: patterns of retrieval sets; none means all but the `headings-` sets.
        answer_sets: patterns of sets of questions on a passage; the default are those that people asked.
        queries: at most N per retrieval set.
        passages: at most N to search in, right ones included; `None` is all.
        questions: at most N per set of questions.
        rows: at most N per set of held-out text.
        cachings: modes in which answers are compared; `"off"` is always among them.
        quotes: how answers are quoted beside being written freely: `"tokens"`, `"spans"`, each also with `:N` for the
            best N sentences only, and with `-echo` for quotes that do not begin with a word of the question. The first
            is measured in every mode, the others with caching off.
        seed: of what is drawn at random: questions and resamples.

    Raises:
        OptionError: a value that is not possible.
    """

    parts: tuple[EvaluationPart, ...] = PARTS
    sets: tuple[str, ...] = ()
    answer_sets: tuple[str, ...] = ("squad*", "selqa*")
    queries: int = 300
    passages: int | None = None
    questions: int = 150
    rows: int = 20
    cachings: tuple[Caching, ...] = CACHINGS
    quotes: tuple[str, ...] = QUOTES
    seed: int = 0

    def __post_init__(self) -> None:
        _check_known("parts", self.parts, PARTS)
        _check_known("cachings", self.cachings, CACHINGS)
        if "off" not in self.cachings:
            object.__setattr__(self, "cachings", ("off", *self.cachings))
        for quote in self.quotes:
            parse_quote(quote)
        for name in ("queries", "questions", "rows", "passages"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name}={value} is not possible. Give 1 or more.")

    def quick(self) -> EvaluationOptions:
        """Return options that take a fraction of the time: 30 of everything, 300 passages."""
        return replace(self, queries=30, passages=300, questions=30, rows=4)


def parse_quote(text: str) -> Quoting:
    """Return a way of quoting from its name.

    Raises:
        OptionError: no such way.

    >>> quoting = parse_quote("spans:1-echo")
    >>> quoting.method, quoting.sentences, quoting.echo
    ('spans', 1, False)
    """
    found = re.fullmatch(r"(tokens|spans|sentences)(?::([1-9]\d*))?(-echo)?", text)
    if found is None:
        raise OptionError(
            f"quotes: {text!r} is unknown. Use tokens, spans or sentences, with :N for the best N sentences only "
            "and -echo for quotes that do not begin with a word of the question."
        )
    return Quoting(method=cast(QuoteMethod, found[1]), sentences=int(found[2] or 0), echo=found[3] is None)


def _check_known(name: str, found: Sequence[str], known: Sequence[str]) -> None:
    if not found:
        raise OptionError(f"{name} is empty. Name some of {', '.join(known)}.")
    for value in found:
        if value not in known:
            raise OptionError(f"{name}: {value!r} is unknown. Use some of {', '.join(known)}.")
