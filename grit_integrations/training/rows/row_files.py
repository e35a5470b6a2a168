"""Rows of the streams: read lazily from JSONL, checked when opened."""

from __future__ import annotations

import hashlib
import json
import tempfile
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

import zstandard

from grit_integrations.errors import DataError


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
class Text:
    """Plain text (one turn) or a conversation (user, assistant, user, ...).

    `opening` is how the last response begins; it is given, not predicted.
    """

    turns: tuple[str, ...]
    opening: str = ""

    @property
    def size(self) -> int:
        """The length in characters."""
        return sum(map(len, self.turns))


class SizedRow(Protocol):
    """What a file holds: something whose length in characters shapes batches."""

    @property
    def size(self) -> int:
        """The length in characters."""


Row = TypeVar("Row", bound=SizedRow)


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


def parse_text(row: Any) -> Text:
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
    return Text(tuple(turns))


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, value) of a `.jsonl` or `.jsonl.zst` file, skipping blank lines.

    Raises:
        DataError: names the file and the line that is not JSON.
    """
    with path.open("rb") as raw:
        yield from _parsed_lines(path, _decompressed(path, raw))


def _decompressed(path: Path, raw: BinaryIO) -> BinaryIO:
    if not path.name.endswith(".zst"):
        return raw
    plain = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the reader
    try:
        zstandard.ZstdDecompressor().copy_stream(raw, plain)
    except zstandard.ZstdError as error:
        raise DataError(f"{path} cannot be decompressed: {error}. Is the file complete?") from error
    plain.seek(0)
    return plain


def _parsed_lines(path: Path, stream: BinaryIO) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise DataError(f"{path} line {number} is not JSON: {error}.") from error


@dataclass(frozen=True, slots=True)
class Content:
    """What a resumed run compares a file by: its uncompressed bytes."""

    size: int
    digest: str


class RowFile(Generic[Row]):
    """One JSONL file, opened lazily: every line is checked once, then only line offsets and sizes stay in memory.

    Raises:
        DataError: names the file and the line that is wrong, or the file that has no rows.
    """

    def __init__(self, path: Path, parse: Callable[[Any], Row]) -> None:
        self.path = path
        self.name = path.name.removesuffix(".zst").removesuffix(".jsonl")
        self._parse = parse
        self._stream: BinaryIO | None = None
        self._offsets = array("q")
        self.sizes = array("l")
        with path.open("rb") as raw:
            self.content = self._index(_decompressed(path, raw))
        if not self._offsets:
            raise DataError(f"{path} has no rows. Remove the file or fill it.")

    def _index(self, stream: BinaryIO) -> Content:
        offset, digest = 0, hashlib.blake2b(digest_size=16)
        for number, line in enumerate(stream, start=1):
            if line.strip():
                self._offsets.append(offset)
                self.sizes.append(self._read(line, number).size)
            offset += len(line)
            digest.update(line)
        return Content(offset, digest.hexdigest())

    def _read(self, line: bytes, number: int) -> Row:
        try:
            return self._parse(json.loads(line))
        except ValueError as error:
            raise DataError(f"{self.path} line {number}: {error}.") from error

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Row:
        if self._stream is None:
            self._stream = _decompressed(self.path, self.path.open("rb"))
        self._stream.seek(self._offsets[index])
        return self._read(self._stream.readline(), index + 1)


def row_files(folder: Path) -> list[Path]:
    """Return the `.jsonl` and `.jsonl.zst` files of a folder, in the order of their names."""
    return sorted(path for path in folder.iterdir() if path.name.endswith((".jsonl", ".jsonl.zst")))


def open_files(folder: Path, parse: Callable[[Any], Row]) -> list[RowFile[Row]]:
    """Open every file of rows in a folder."""
    if not folder.is_dir():
        raise DataError(
            f"There is no folder {folder}. Make it with grit_integrations.training.prepare.convert, or set data."
        )
    paths = row_files(folder)
    if not paths:
        raise DataError(f"{folder} has no .jsonl or .jsonl.zst files.")
    return [RowFile(path, parse) for path in paths]


def open_mixed(folder: Path) -> tuple[list[RowFile[Pair]], list[RowFile[Text]]]:
    """Open a folder whose files belong to either stream, as the reference's do; the keys of a file's rows tell.

    Raises:
        DataError: a file whose first row belongs to neither.
    """
    pairs: list[RowFile[Pair]] = []
    texts: list[RowFile[Text]] = []
    for path in row_files(folder):
        _, first = next(read_json_lines(path), (0, {}))
        keys = set(first) if isinstance(first, dict) else set()
        if "query" in keys:
            pairs.append(RowFile(path, parse_pair))
        elif "text" in keys:
            texts.append(RowFile(path, parse_text))
        else:
            raise DataError(f'{path}: the first row has neither "query" nor "text". Remove the file or correct it.')
    return pairs, texts
