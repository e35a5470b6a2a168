"""Rows of the two streams: read lazily from JSONL, checked when opened, in an order that a resumed run repeats."""

from __future__ import annotations

import fnmatch
import json
import random
import tempfile
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

import zstandard

from grit_integrations.errors import DataError

POOL_BATCHES = 16  # rows are sorted by length inside pools of about this many batches
CHARACTERS_PER_TOKEN = 4  # a guess that only shapes batches


@dataclass(frozen=True, slots=True)
class Pair:
    """A query with what it should find, and what it should not."""

    instruction: str
    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """The length of the first positive, in characters."""
        return len(self.positives[0])


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text (one turn) or a conversation (user, assistant, user, ...)."""

    turns: tuple[str, ...]

    @property
    def size(self) -> int:
        """The length in characters."""
        return sum(map(len, self.turns))


Row = TypeVar("Row", bound=Pair | Text)


def parse_pair(row: Any) -> Pair:
    """Check and read a row of the embedding stream: `{"query": str | [instruction, text], "pos": [...], "neg": [...]}`.

    Instructions are stripped of colons and white space, as the GritLM reference does in training.
    """
    if not isinstance(row, dict):
        raise ValueError(f"a row is an object, not a {type(row).__name__}")
    query = row.get("query")
    parts = ["", query] if isinstance(query, str) else query
    if not (isinstance(parts, list) and len(parts) == 2 and all(isinstance(part, str) for part in parts)):
        raise ValueError('"query" must be a string or [instruction, text]')
    positives, negatives = _texts(row.get("pos"), "pos"), _texts(row.get("neg", []), "neg")
    if not positives:
        raise ValueError('"pos" has no text')
    if not parts[1].strip():
        raise ValueError('"query" is blank')
    return Pair(parts[0].strip("\t\n :"), parts[1], positives, negatives)


def _texts(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f'"{name}" must be a list of texts')
    texts = [item[-1] if isinstance(item, list) and len(item) == 2 else item for item in value]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f'"{name}" has something that is not text or is blank')
    return tuple(texts)


def parse_text(row: Any) -> Text:
    """Check and read one row of the generative stream: `{"text": str | [instruction, response, ...]}`."""
    text = row.get("text") if isinstance(row, dict) else None
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
            self._index(_decompressed(path, raw))
        if not self._offsets:
            raise DataError(f"{path} has no rows. Remove the file or fill it.")

    def _index(self, stream: BinaryIO) -> None:
        offset = 0
        for number, line in enumerate(stream, start=1):
            if line.strip():
                self._offsets.append(offset)
                self.sizes.append(self._read(line, number).size)
            offset += len(line)

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


def open_files(folder: Path, parse: Callable[[Any], Row]) -> list[RowFile[Row]]:
    """Open every `.jsonl` and `.jsonl.zst` file of a folder, in the order of their names."""
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}. Make it with grit_integrations.training.convert, or set data.")
    paths = sorted(p for p in folder.iterdir() if p.name.endswith((".jsonl", ".jsonl.zst")))
    if not paths:
        raise DataError(f"{folder} has no .jsonl or .jsonl.zst files.")
    return [RowFile(path, parse) for path in paths]


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How to cut batches: a budget of padded tokens, a bound on rows, and whether a batch stays in one file."""

    tokens: int
    longest: int  # tokens a row is cut to
    rows: int
    same_file: bool


@dataclass(frozen=True, slots=True)
class Position:
    """Where a stream stands: what a checkpoint keeps of the data order."""

    epoch: int = 0
    batch: int = 0


class Stream(Generic[Row]):
    """An endless stream of batches whose order depends on nothing but the files, the plan and the seed."""

    def __init__(
        self, files: Sequence[RowFile[Row]], plan: BatchPlan, *, weights: Mapping[str, float], seed: int | str
    ) -> None:
        self._files = files
        self._plan = plan
        self._seed = seed
        self._weights = [file_weight(file.name, weights) for file in files]
        if not any(self._weights):
            raise DataError("The weights leave out every file of a stream. Give at least one file a weight above 0.")
        self.position = Position()
        self._order: list[list[tuple[int, int]]] = []

    def __next__(self) -> list[Row]:
        """Return the next batch and move on."""
        if not self._order:
            self._order = self._epoch(self.position.epoch)
        batch = self._order[self.position.batch]
        if self.position.batch + 1 < len(self._order):
            self.position = Position(self.position.epoch, self.position.batch + 1)
        else:
            self.position, self._order = Position(self.position.epoch + 1, 0), []
        return [self._files[file][row] for file, row in batch]

    def seek(self, position: Position) -> None:
        """Continue from a position that `position` gave."""
        self.position, self._order = position, []

    def _epoch(self, epoch: int) -> list[list[tuple[int, int]]]:
        rng = random.Random(f"{self._seed}:{epoch}")  # noqa: S311  # data order, not secrets
        chosen = [self._choose(index, rng) for index in range(len(self._files))]
        pools = chosen if self._plan.same_file else [[row for rows in chosen for row in rows]]
        batches = [batch for pool in pools for batch in self._cut(pool, rng)]
        rng.shuffle(batches)
        return batches

    def _choose(self, index: int, rng: random.Random) -> list[tuple[int, int]]:
        whole, part = divmod(self._weights[index], 1)
        rows = list(range(len(self._files[index])))
        chosen = rows * int(whole) + rng.sample(rows, round(part * len(rows)))
        return [(index, row) for row in chosen]

    def _cut(self, pool: list[tuple[int, int]], rng: random.Random) -> Iterator[list[tuple[int, int]]]:
        rng.shuffle(pool)
        step = POOL_BATCHES * max(1, min(self._plan.rows, self._plan.tokens // self._plan.longest))
        for start in range(0, len(pool), step):
            batch: list[tuple[int, int]] = []
            for row in sorted(pool[start : start + step], key=self._tokens):
                rows = len(batch) + 1
                if batch and (rows > self._plan.rows or rows * self._tokens(row) > self._plan.tokens):
                    yield batch
                    batch = []
                batch.append(row)
            if batch and (len(batch) > 1 or not self._plan.same_file):
                yield batch

    def _tokens(self, row: tuple[int, int]) -> int:
        file, index = row
        return min(self._plan.longest, self._files[file].sizes[index] // CHARACTERS_PER_TOKEN + 2)


def file_weight(name: str, weights: Mapping[str, float]) -> float:
    """Return the weight of the first pattern that matches a file's name; 1 when none does."""
    return next((weight for pattern, weight in weights.items() if fnmatch.fnmatch(name, pattern)), 1.0)
