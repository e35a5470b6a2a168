"""Files of one JSON value a line, `.jsonl` or `.jsonl.zst`; what is wrong is named by file and line."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from grit_integrations.errors import DataError, MissingExtraError

JsonRow = dict[str, Any]
_Parsed = TypeVar("_Parsed")


def read_rows(path: Path, parse: Callable[[Any], _Parsed]) -> Iterator[_Parsed]:
    """Yield what `parse` makes of each line.

    Raises:
        DataError: `parse` refuses a line with a `ValueError`; names the file and the line.
    """
    for number, row in read_json_lines(path):
        try:
            parsed = parse(row)
        except ValueError as error:
            raise DataError(f"{path} line {number}: {error}.") from error
        yield parsed


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, value) of a `.jsonl` or `.jsonl.zst` file, skipping blank lines.

    Raises:
        DataError: names the file and the line that is not JSON.
    """
    with path.open("rb") as raw:
        yield from _values(path, decompressed(path, raw))


def _values(path: Path, stream: BinaryIO) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise DataError(f"{path} line {number} is not JSON: {error}.") from error


def decompressed(path: Path, raw: BinaryIO) -> BinaryIO:
    """Return the bytes of an opened file; those of a `.zst` file go through a temporary one, so that it can be sought.

    Raises:
        DataError: the file cannot be decompressed.
        MissingExtraError: zstandard is not installed.
    """
    if not path.name.endswith(".zst"):
        return raw
    try:
        import zstandard
    except ImportError as error:
        raise MissingExtraError("zstandard", "evaluate") from error
    plain = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the reader
    try:
        zstandard.ZstdDecompressor().copy_stream(raw, plain)
    except zstandard.ZstdError as error:
        raise DataError(f"{path} cannot be decompressed: {error}. Is the file complete?") from error
    plain.seek(0)
    return plain
