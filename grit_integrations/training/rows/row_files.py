"""Files of rows: read lazily from JSONL, checked when opened."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

from grit_integrations.errors import DataError
from grit_integrations.evaluation.json_lines import decompressed, read_json_lines
from grit_integrations.evaluation.row_kinds import Pair, TextRow, parse_pair, parse_text


class SizedRow(Protocol):
    """What a file holds: something whose length in characters shapes batches."""

    @property
    def size(self) -> int:
        """The length in characters."""


AnyRow = TypeVar("AnyRow", bound=SizedRow)


@dataclass(frozen=True, slots=True)
class FileContent:
    """What a resumed run compares a file by: its uncompressed bytes."""

    size: int
    digest: str


class RowFile(Generic[AnyRow]):
    """One JSONL file, opened lazily: every line is checked once, then only line offsets and sizes stay in memory.

    Raises:
        DataError: names the file and the line that is wrong, or the file that has no rows.
    """

    def __init__(self, path: Path, parse: Callable[[Any], AnyRow]) -> None:
        self.path = path
        self.name = path.name.removesuffix(".zst").removesuffix(".jsonl")
        self._parse = parse
        self._stream: BinaryIO | None = None
        self._offsets = array("q")
        self.sizes = array("l")
        with path.open("rb") as raw:
            self.content = self._index(decompressed(path, raw))
        if not self._offsets:
            raise DataError(f"{path} has no rows. Remove the file or fill it.")

    def _index(self, stream: BinaryIO) -> FileContent:
        offset, digest = 0, hashlib.blake2b(digest_size=16)
        for number, line in enumerate(stream, start=1):
            if line.strip():
                self._offsets.append(offset)
                self.sizes.append(self._read(line, number).size)
            offset += len(line)
            digest.update(line)
        return FileContent(offset, digest.hexdigest())

    def _read(self, line: bytes, number: int) -> AnyRow:
        try:
            return self._parse(json.loads(line))
        except ValueError as error:
            raise DataError(f"{self.path} line {number}: {error}.") from error

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> AnyRow:
        if self._stream is None:
            self._stream = decompressed(self.path, self.path.open("rb"))
        self._stream.seek(self._offsets[index])
        return self._read(self._stream.readline(), index + 1)


def row_files(folder: Path) -> list[Path]:
    """Return the `.jsonl` and `.jsonl.zst` files of a folder, in the order of their names."""
    return sorted(path for path in folder.iterdir() if path.name.endswith((".jsonl", ".jsonl.zst")))


def open_files(folder: Path, parse: Callable[[Any], AnyRow]) -> list[RowFile[AnyRow]]:
    """Open every file of rows in a folder."""
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}. Put .jsonl files there, or set data to where they are.")
    paths = row_files(folder)
    if not paths:
        raise DataError(f"{folder} has no .jsonl or .jsonl.zst files.")
    return [RowFile(path, parse) for path in paths]


def open_mixed(folder: Path) -> tuple[list[RowFile[Pair]], list[RowFile[TextRow]]]:
    """Open a folder whose files belong to either stream, as the reference's do; the keys of a file's rows tell.

    Raises:
        DataError: a file whose first row belongs to neither.
    """
    pairs: list[RowFile[Pair]] = []
    texts: list[RowFile[TextRow]] = []
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
