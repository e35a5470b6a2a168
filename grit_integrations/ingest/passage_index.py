"""A directory that holds passages, their vectors and the name of the model that made them, kept in step with files."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grit_integrations.errors import IngestError, MissingExtraError
from grit_integrations.ingest.file_reader import MOST_BYTES
from grit_integrations.ingest.found_files import FoundFiles, files_under, find_files
from grit_integrations.ingest.index_card import check_origin, create_card, read_card
from grit_integrations.ingest.indexing_run import IndexingRun, IndexProgress, IndexReport
from grit_integrations.ingest.record_manager import SqliteRecordManager
from grit_integrations.ingest.splitter import DEFAULT_TOKENS, PassageSplitter, most_tokens
from grit_integrations.ingest.write_lock import writing_to
from grit_integrations.model import GritLM

if TYPE_CHECKING:
    from chromadb import Collection
    from chromadb.api import ClientAPI
    from langchain_chroma import Chroma
    from langchain_core.documents import Document

COLLECTION = "passages"
_LITTLE_ROOM = 10_000_000  # bytes
QUERY_INSTRUCTION = "Given a question, retrieve passages that answer the question"


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage found for a query, with its score: the cosine similarity, or the reranker's."""

    document: Document
    score: float

    @property
    def source(self) -> str:
        """The file that the passage is from."""
        return str(self.document.metadata.get("source", "?"))


class PassageIndex:
    """An index on disk: `chroma/` (vectors and texts), `records.sqlite` (what is in it) and `store.json` (which model).

    Its directory is what the command line calls the store. Opening it compares the model's fingerprint with the stored
    one before anything else is opened. No weights are read until text is embedded.

    Args:
        directory: where an index is, or with `create` a path where nothing is yet.
        model: the model that made the index; for a new one the model that will make it.
        create: make the index if it is not there.
        passage_tokens: longest passage of a new index, by default 192 or what the model takes; an existing one keeps
            its own.

    Raises:
        IngestError: there is no index, or something else is there.
        CollectionMismatchError: another model made the index; the message has both fingerprints.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from grit_integrations import GritLM
        >>> from grit_integrations.ingest import PassageIndex
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "heart.txt").write_text("The heart pumps blood.")
        >>> index = PassageIndex(folder / "index", GritLM("grit-mini"), create=True)
        >>> index.index([folder / "heart.txt"]).passages_added
        1
        >>> index.search("What moves the blood?")[0].document.page_content
        'The heart pumps blood.'
    """

    def __init__(
        self, directory: str | Path, model: GritLM, *, create: bool = False, passage_tokens: int | None = None
    ) -> None:
        self.directory = Path(directory).absolute()  # sqlite and Chroma open it later, wherever the process is by then
        self.model = model
        card = read_card(self.directory)
        if card is None:
            if not create:
                raise IngestError(f"There is no store at {directory}. Make one first: grit index PATH...")
            card = create_card(self.directory, model, passage_tokens or min(DEFAULT_TOKENS, most_tokens(model)))
        check_origin(card, model, self.directory)
        self.splitter = PassageSplitter(model, card["passage_tokens"])
        if passage_tokens not in (None, self.splitter.tokens):
            raise IngestError(
                f"The store at {self.directory} has passages of up to {self.splitter.tokens} tokens, and "
                f"{passage_tokens} are asked for. Use another --store, or leave the size out."
            )

    def with_model(self, model: GritLM) -> PassageIndex:
        """Return this index, opened with another handle on the same weights."""
        return PassageIndex(self.directory, model)

    @property
    def query_instruction(self) -> str:
        """What questions are embedded under: the model's own words for it, if its checkpoint has any."""
        return self.model.query_instruction or QUERY_INSTRUCTION

    @cached_property
    def records(self) -> SqliteRecordManager:
        """Which passages of which files are in the index."""
        return SqliteRecordManager(self.directory / "records.sqlite")

    @cached_property
    def collection(self) -> Collection:
        """The passages as a Chroma collection, for a plain Chroma program or LlamaIndex."""
        from grit_integrations.chroma import open_collection

        return open_collection(self._client, COLLECTION, self.model, query_instruction=self.query_instruction)

    @cached_property
    def vectors(self) -> Chroma:
        """The passages as a LangChain vector store."""
        try:
            from langchain_chroma import Chroma
        except ModuleNotFoundError as error:
            if error.name != "langchain_chroma":
                raise
            raise MissingExtraError("langchain-chroma", "cli") from None
        from grit_integrations.langchain import GritEmbeddings

        name = self.collection.name  # made and checked before LangChain opens it
        embeddings = GritEmbeddings(model=self.model, query_instruction=self.query_instruction)
        return Chroma(client=self._client, collection_name=name, embedding_function=embeddings)

    @cached_property
    def _client(self) -> ClientAPI:
        from grit_integrations.chroma import persistent_client

        return persistent_client(self.directory / "chroma")

    def count(self) -> int:
        """Return how many passages the index holds."""
        with self._usable():
            return len(self.records.list_keys())

    def texts(self, files: Sequence[str] | None = None) -> list[str]:
        """Return the passages' texts, of some files or of all."""
        with self._usable():
            if files is None:
                return list(self.collection.get(include=["documents"])["documents"] or [])
            texts: list[str] = []
            for batch in _batches(list(files)):
                where: Any = {"source": {"$in": batch}}
                texts += self.collection.get(where=where, include=["documents"])["documents"] or []
            return texts

    def search(self, query: str, k: int = 4) -> list[Hit]:
        """Return the `k` passages nearest to the query, best first."""
        with self._usable():
            found = self.vectors.similarity_search_with_score(query, k=k)
        return [Hit(document, 1.0 - distance) for document, distance in found]

    def index(
        self,
        paths: Sequence[str | Path],
        *,
        on_progress: Callable[[IndexProgress], None] | None = None,
        max_file_bytes: int = MOST_BYTES,
    ) -> IndexReport:
        """Bring the index in step with the files under `paths`; what lies elsewhere stays as it is.

        Unchanged files are skipped, changed ones replaced, and files that are gone removed. A file that cannot be read
        is reported and the others go on; if it was readable before, its passages go, unless it only could not be
        opened or is too large. An interrupted run leaves an index that can be searched, and the next one goes on from
        there.

        Args:
            paths: files and folders.
            on_progress: called at each step.
            max_file_bytes: larger files are reported and not read, by default 100 MB.

        Raises:
            IngestError: a path does not exist, another process is writing to this index, or the disk is full.
        """
        found = find_files(paths)
        with self._writing():
            run = self._run(found, on_progress, max_file_bytes)
            for file in found.files:
                run.take(file)
            run.flush()
            run.remove(self._gone(paths, found))
        return run.report

    def forget(self, paths: Sequence[str | Path]) -> IndexReport:
        """Remove what was indexed from `paths`, whether the files are still there or not."""
        with self._writing():
            run = self._run(FoundFiles())
            run.remove(files_under(self.records.known_files(), paths))
        return run.report

    def _run(
        self,
        found: FoundFiles,
        on_progress: Callable[[IndexProgress], None] | None = None,
        max_file_bytes: int = MOST_BYTES,
    ) -> IndexingRun:
        return IndexingRun(
            self.records, self.vectors, self.splitter, found, on_progress=on_progress, max_file_bytes=max_file_bytes
        )

    def _gone(self, paths: Sequence[str | Path], found: FoundFiles) -> list[str]:
        """Return the known files under `paths` that were not found, except below directories that cannot be listed."""
        known = set(files_under(self.records.known_files(), paths)) - set(map(str, found.files))
        return sorted(known - set(files_under(known, list(found.unreadable))))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with writing_to(self.directory), self._usable():
            if self.records.interrupted or self.collection.count() != self.count():
                self._reconcile()
            self.records.interrupted = True
            yield
            self.records.interrupted = False

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Say what is wrong with the files of an index that sqlite or Chroma cannot use, and what helps."""
        try:
            yield
        except Exception as error:
            from chromadb.errors import ChromaError  # here, since counting needs no Chroma

            if not isinstance(error, sqlite3.Error | ChromaError):
                raise
            cure = "Run the same command again; if that does not help, delete the store and index again."
            if not os.access(self.directory, os.W_OK):
                cure = "It is read-only, and sqlite writes even to read: copy it to where you may write."
            elif shutil.disk_usage(self.directory).free < _LITTLE_ROOM:
                cure = "The disk is full: make room and run the same command again. What was indexed is kept."
            raise IngestError(f"The store at {self.directory} cannot be used ({error}). {cure}") from error

    def _reconcile(self) -> None:
        """Make vectors and records agree after a run that did not come to its end, or a loss of files.

        LangChain's `index` writes vectors first and notes them afterwards. What was cut off between the two is
        invisible to the clean-up, so it goes here and is embedded again if its file is still the same.
        """
        stored = set(self.collection.get(include=[])["ids"])
        recorded = set(self.records.list_keys())
        for batch in _batches(sorted(stored - recorded)):
            self.collection.delete(ids=batch)
        for batch in _batches(sorted(recorded - stored)):
            self.records.forget(self.records.files_of(batch))
            self.records.delete_keys(batch)


def _batches(items: list[str], size: int = 1000) -> Iterator[list[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))
