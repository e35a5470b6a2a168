"""The two kinds of row that held-out sets and training data share: a query with its passages, and a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Pair:
    """A query with what it should find, and what it should not."""

    instruction: str
    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    passage_instructions: tuple[str, ...] = ()  # of the positives, then the negatives; empty when they have none

    @property
    def size(self) -> int:
        """The length of the first positive, in characters."""
        return len(self.positives[0])


@dataclass(frozen=True, slots=True)
class TextRow:
    """Plain text (one turn) or a conversation (user, assistant, user, ...)."""

    turns: tuple[str, ...]

    @property
    def size(self) -> int:
        """The length in characters."""
        return sum(map(len, self.turns))


def parse_pair(row: Any) -> Pair:
    """Check and read a row of the embedding stream: `{"query": text, "pos": [text, ...], "neg": [text, ...]}`.

    A text is a string or `[instruction, string]`. Instructions are stripped of colons and white space, as the GritLM
    reference does in training.

    Raises:
        ValueError: says what is wrong with the row.
    """
    if not isinstance(row, dict):
        raise ValueError(f"a row is an object, not a {type(row).__name__}")
    if "query" not in row:
        raise ValueError('"query" is missing')
    instruction, query = _instructed(row["query"], '"query"')
    positives, negatives = _texts(row, "pos", default=None), _texts(row, "neg", default=[])
    if not positives:
        raise ValueError('"pos" has no text')
    repeated = {text for _, text in positives} & {text for _, text in negatives}
    if repeated:
        raise ValueError(f'"neg" repeats a text of "pos": {min(repeated)[:60]!r}')
    passages = [*positives, *negatives]
    instructions = tuple(each for each, _ in passages) if any(each for each, _ in passages) else ()
    return Pair(instruction, query, tuple(t for _, t in positives), tuple(t for _, t in negatives), instructions)


def _texts(row: dict[str, Any], name: str, *, default: Any) -> list[tuple[str, str]]:
    value = row.get(name, default)
    if value is None and name not in row:
        raise ValueError(f'"{name}" is missing')
    if not isinstance(value, list):
        raise ValueError(f'"{name}" must be a list of texts')
    return [_instructed(item, f'each text of "{name}"') for item in value]


def _instructed(value: Any, what: str) -> tuple[str, str]:
    """Return the instruction, which may be empty, and the text."""
    parts = ["", value] if isinstance(value, str) else value
    if not (isinstance(parts, list) and len(parts) == 2 and all(isinstance(part, str) for part in parts)):
        raise ValueError(f"{what} must be a string or [instruction, text]")
    if not parts[1].strip():
        raise ValueError(f"{what} must not be blank")
    return parts[0].strip("\t\n :"), parts[1]


def parse_text(row: Any) -> TextRow:
    """Check and read one row of the generative stream: `{"text": str | [instruction, response, ...]}`.

    Raises:
        ValueError: says what is wrong with the row.
    """
    if not isinstance(row, dict) or "text" not in row:
        raise ValueError('"text" is missing')
    text = row["text"]
    turns = [text] if isinstance(text, str) else text
    if not (isinstance(turns, list) and turns and all(isinstance(turn, str) and turn.strip() for turn in turns)):
        raise ValueError('"text" must be a string or [instruction, response, ...], none of them blank')
    if isinstance(text, list) and len(turns) % 2:
        raise ValueError(f'"text" has {len(turns)} turns; instructions and responses must alternate')
    return TextRow(tuple(turns))
