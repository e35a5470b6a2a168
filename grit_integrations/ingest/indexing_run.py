"""One indexing run: files that changed are read, split and written with LangChain's `index`, batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from grit_integrations.errors import IngestError
from grit_integrations.ingest.file_reader import MOST_BYTES, read_bytes, read_file
from grit_integrations.ingest.found_files import FoundFiles
from grit_integrations.ingest.record_manager import SqliteRecordManager
from grit_integrations.ingest.splitter import PassageSplitter

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from langchain_core.vectorstores import VectorStore

_READING = "2"  # raise it when reading or splitting changes, so that files are read again
_FLUSH = 256  # passages after which files are written and noted as done
_BATCH = 64  # passages between two points where an interrupted run goes on


@dataclass(frozen=True, slots=True)
class IndexProgress:
    """How far indexing is: bytes of files dealt with, and the file at hand."""

    done: float
    total: int
    file: str


@dataclass(slots=True)
class IndexReport:
    """What an indexing run did, file by file; `failed` has the reason for each."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    ignored: int = 0
    passages_added: int = 0
    passages_deleted: int = 0


@dataclass(frozen=True, slots=True)
class _Pending:
    """A file that was read and waits to be written."""

    file: str
    signature: str
    passages: list[Document]
    size: int


class IndexingRun:
    """Collects changed files until they have enough passages to write, and reports what became of each file.

    Args:
        records: what is in the index.
        vectors: where passages go.
        splitter: cuts files into passages.
        found: the files to look at, and those that cannot be looked at.
        on_progress: called at each step.
        max_file_bytes: larger files are not read.
    """

    def __init__(
        self,
        records: SqliteRecordManager,
        vectors: VectorStore,
        splitter: PassageSplitter,
        found: FoundFiles,
        *,
        on_progress: Callable[[IndexProgress], None] | None = None,
        max_file_bytes: int = MOST_BYTES,
    ) -> None:
        self.records, self.vectors, self.splitter = records, vectors, splitter
        self.on_progress = on_progress
        self.max_file_bytes = max_file_bytes
        self.report = IndexReport(ignored=found.ignored)
        self.report.failed.update({str(path): reason for path, reason in found.unreadable.items()})
        self.signatures = records.signatures()
        self.pending: list[_Pending] = []
        self.sizes = {str(file): _size(file) for file in found.files}
        self.total = sum(self.sizes.values())
        self.done = 0.0

    def take(self, path: Path) -> None:
        """Read a file if it changed, and write when enough has come together."""
        file = str(path)
        self._step(0, file)
        try:
            data = read_bytes(path, self.max_file_bytes)
        except (IngestError, MemoryError) as error:  # it may be back tomorrow, so its passages stay
            self.report.failed[file] = _reason(error)
            return self._step(self.sizes[file], file)
        signature = self._signature(data)
        if self.signatures.get(file) == signature:
            self.report.unchanged.append(file)
            return self._step(self.sizes[file], file)
        try:
            passages = self.splitter.split(read_file(path, data))
        except (IngestError, MemoryError) as error:
            self.report.failed[file] = _reason(error)
            self._clear([file])
            return self._step(self.sizes[file], file)
        (self.report.changed if file in self.signatures else self.report.added).append(file)
        self.pending.append(_Pending(file, signature, passages, self.sizes[file]))
        if sum(len(pending.passages) for pending in self.pending) >= _FLUSH:
            self.flush()
        return None

    def flush(self) -> None:
        """Write the pending files and note them as done."""
        if self.pending:
            self.records.forget(pending.file for pending in self.pending)
            self._index(self._passages(), [pending.file for pending in self.pending])
            self.records.complete({pending.file: pending.signature for pending in self.pending})
            self.pending = []

    def remove(self, files: Sequence[str]) -> None:
        """Remove files that are gone."""
        if files:
            self._clear(files)
            self.report.removed += files

    def _clear(self, files: Sequence[str]) -> None:
        self.records.forget(files)
        self._index([], files)

    def _passages(self) -> Iterator[Document]:
        """Yield the pending passages; `index` asks for the next one when those before are being written."""
        for pending in self.pending:
            for passage in pending.passages:
                yield passage
                self._step(pending.size / len(pending.passages), pending.file)

    def _index(self, passages: Iterator[Document] | list[Document], files: Sequence[str]) -> None:
        from langchain_core.indexing import index

        result = index(
            passages,
            self.records.within(files),
            self.vectors,
            cleanup="full",
            source_id_key="source",
            batch_size=_BATCH,
            key_encoder="blake2b",
        )
        self.report.passages_added += result["num_added"]
        self.report.passages_deleted += result["num_deleted"]

    def _signature(self, data: bytes) -> str:
        settings = f"{_READING}|{self.splitter.tokens}|".encode()
        return hashlib.blake2b(settings + data, digest_size=16).hexdigest()

    def _step(self, amount: float, file: str) -> None:
        self.done += amount
        if self.on_progress is not None:
            self.on_progress(IndexProgress(self.done, self.total, file))


def _reason(error: Exception) -> str:
    return "the file does not fit into memory" if isinstance(error, MemoryError) else str(error)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
