"""A directory that holds passages, their vectors and the name of the model that made them, kept in step with files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from grit_integrations.errors import IngestError, MissingExtraError
from grit_integrations.ingest.files import FoundFiles, find_files, place_of, read_bytes, read_file
from grit_integrations.ingest.records import SqliteRecordManager
from grit_integrations.ingest.splitting import DEFAULT_TOKENS, PassageSplitter, most_tokens
from grit_integrations.model import GritLM

if TYPE_CHECKING:
    from chromadb import Collection
    from chromadb.api import ClientAPI
    from langchain_chroma import Chroma
    from langchain_core.documents import Document

    from grit_integrations.chroma import VectorOrigin

FORMAT = 1
COLLECTION = "passages"
QUERY_INSTRUCTION = "Given a question, retrieve passages that answer the question"

_CARD = "store.json"
_READING = "1"  # raise it when reading or splitting changes, so that files are read again
_FLUSH = 256  # passages after which files are written and noted as done
_BATCH = 64  # passages between two points where an interrupted run goes on


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage found for a query, with its score: the cosine similarity, or the reranker's."""

    document: Document
    score: float

    @property
    def source(self) -> str:
        """The file that the passage is from."""
        return str(self.document.metadata.get("source", "?"))


@dataclass(frozen=True, slots=True)
class Progress:
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


class Store:
    """An index on disk: `chroma/` (vectors and texts), `records.sqlite` (what is in it) and `store.json` (which model).

    Opening one compares the model's fingerprint with the stored one before anything else is opened. No weights are
    read until text is embedded.

    Args:
        directory: an existing store, or with `create` a path where nothing is yet.
        model: the model that made the store; for a new one the model that will make it.
        create: make the store if it is not there.
        passage_tokens: longest passage of a new store, by default 192 or what the model takes; an existing one keeps
            its own.

    Raises:
        IngestError: there is no store, or something else is there.
        CollectionMismatchError: another model made the store; the message has both fingerprints.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from grit_integrations import GritLM
        >>> from grit_integrations.ingest import Store
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "heart.txt").write_text("The heart pumps blood.")
        >>> store = Store(folder / "store", GritLM("grit-mini"), create=True)
        >>> store.index([folder / "heart.txt"]).passages_added
        1
        >>> store.search("What moves the blood?")[0].document.page_content
        'The heart pumps blood.'
    """

    def __init__(
        self, directory: str | Path, model: GritLM, *, create: bool = False, passage_tokens: int | None = None
    ) -> None:
        self.directory = Path(directory)
        self.model = model
        card = read_card(self.directory)
        if card is None:
            if not create:
                raise IngestError(f"There is no store at {self.directory}. Make one first: grit index PATH...")
            card = _new_card(self.directory, model, passage_tokens or min(DEFAULT_TOKENS, most_tokens(model)))
        _check_origin(card, model, self.directory)
        self.splitter = PassageSplitter(model, card["passage_tokens"])
        if passage_tokens not in (None, self.splitter.tokens):
            raise IngestError(
                f"The store at {self.directory} has passages of up to {self.splitter.tokens} tokens, and "
                f"{passage_tokens} are asked for. Use another --store, or leave the size out."
            )

    def with_model(self, model: GritLM) -> Store:
        """Return this index read through another handle on the same weights."""
        return Store(self.directory, model)

    @cached_property
    def records(self) -> SqliteRecordManager:
        """What is in the store."""
        return SqliteRecordManager(self.directory / "records.sqlite")

    @cached_property
    def collection(self) -> Collection:
        """The passages as a Chroma collection, for a plain Chroma program or LlamaIndex."""
        from grit_integrations.chroma import open_collection

        return open_collection(self._client, COLLECTION, self.model, query_instruction=QUERY_INSTRUCTION)

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
        embeddings = GritEmbeddings(model=self.model, query_instruction=QUERY_INSTRUCTION)
        return Chroma(client=self._client, collection_name=name, embedding_function=embeddings)

    @cached_property
    def _client(self) -> ClientAPI:
        from grit_integrations.chroma import persistent_client

        return persistent_client(self.directory / "chroma")

    def count(self) -> int:
        """Return how many passages the store holds."""
        return len(self.records.list_keys())

    def texts(self, files: Sequence[str] | None = None) -> list[str]:
        """Return the passages' texts, of some files or of all."""
        if files is None:
            return list(self.collection.get(include=["documents"])["documents"] or [])
        texts: list[str] = []
        for batch in _batches(list(files)):
            where: Any = {"source": {"$in": batch}}
            texts += self.collection.get(where=where, include=["documents"])["documents"] or []
        return texts

    def search(self, query: str, k: int = 4) -> list[Hit]:
        """Return the `k` passages nearest to the query, best first."""
        found = self.vectors.similarity_search_with_score(query, k=k)
        return [Hit(document, 1.0 - distance) for document, distance in found]

    def index(
        self, paths: Sequence[str | Path], *, on_progress: Callable[[Progress], None] | None = None
    ) -> IndexReport:
        """Bring the store in step with the files under `paths`; what lies elsewhere stays as it is.

        Unchanged files are skipped, changed ones replaced, and files that are gone removed. A file that cannot be read
        is reported and the others go on; if it was readable before, its passages go, unless it only could not be
        opened. An interrupted run leaves a store that can be searched, and the next one goes on from there.

        Raises:
            IngestError: a path does not exist, or another process is writing to this store.
        """
        found = find_files(paths)
        with self._writing():
            run = _Run(self, found, on_progress or (lambda progress: None))
            for file in found.files:
                run.take(file)
            run.flush()
            run.remove(self._gone(paths, found))
        return run.report

    def forget(self, paths: Sequence[str | Path]) -> IndexReport:
        """Remove what was indexed from `paths`, whether the files are still there or not."""
        with self._writing():
            run = _Run(self, FoundFiles(), lambda progress: None)
            run.remove(_under(self.records.known_files(), paths))
        return run.report

    def _gone(self, paths: Sequence[str | Path], found: FoundFiles) -> list[str]:
        """Return the known files under `paths` that were not found, except below directories that cannot be listed."""
        known = set(_under(self.records.known_files(), paths)) - set(map(str, found.files))
        return sorted(known - set(_under(known, list(found.unreadable))))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with FileLock(self.directory / "lock", timeout=0):
                if self.records.interrupted or self.collection.count() != self.count():
                    self._reconcile()
                self.records.interrupted = True
                yield
                self.records.interrupted = False
        except Timeout:
            raise IngestError(
                f"Another process is writing to the store at {self.directory}. Wait until it is done."
            ) from None

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


class _Run:
    """One indexing run: collects files until there are enough passages, and writes them with LangChain's `index`."""

    def __init__(self, store: Store, found: FoundFiles, on_progress: Callable[[Progress], None]) -> None:
        self.store = store
        self.on_progress = on_progress
        self.report = IndexReport(ignored=found.ignored)
        self.report.failed.update({str(path): reason for path, reason in found.unreadable.items()})
        self.signatures = store.records.signatures()
        self.pending: list[_Pending] = []
        self.sizes = {str(file): _size(file) for file in found.files}
        self.total = sum(self.sizes.values())
        self.done = 0.0

    def take(self, path: Path) -> None:
        """Read a file if it changed, and write when enough has come together."""
        file = str(path)
        self._step(0, file)
        try:
            data = read_bytes(path)
        except IngestError as error:  # it may be back tomorrow, so its passages stay
            self.report.failed[file] = str(error)
            return self._step(self.sizes[file], file)
        signature = self._signature(data)
        if self.signatures.get(file) == signature:
            self.report.unchanged.append(file)
            return self._step(self.sizes[file], file)
        try:
            passages = self.store.splitter.split(read_file(path, data))
        except IngestError as error:
            self.report.failed[file] = str(error)
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
            self.store.records.forget(pending.file for pending in self.pending)
            self._index(self._passages(), [pending.file for pending in self.pending])
            self.store.records.complete({pending.file: pending.signature for pending in self.pending})
            self.pending = []

    def remove(self, files: Sequence[str]) -> None:
        """Remove files that are gone."""
        if files:
            self._clear(files)
            self.report.removed += files

    def _clear(self, files: Sequence[str]) -> None:
        self.store.records.forget(files)
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
            self.store.records.within(files),
            self.store.vectors,
            cleanup="full",
            source_id_key="source",
            batch_size=_BATCH,
            key_encoder="blake2b",
        )
        self.report.passages_added += result["num_added"]
        self.report.passages_deleted += result["num_deleted"]

    def _signature(self, data: bytes) -> str:
        settings = f"{_READING}|{self.store.splitter.tokens}|".encode()
        return hashlib.blake2b(settings + data, digest_size=16).hexdigest()

    def _step(self, amount: float, file: str) -> None:
        self.done += amount
        self.on_progress(Progress(self.done, self.total, file))


def read_card(directory: str | Path) -> dict[str, Any] | None:
    """Return what `store.json` says about a store, or `None` if nothing is there.

    Raises:
        IngestError: something else is there, or a store of a newer format.
    """
    directory = Path(directory)
    if not directory.exists():
        return None
    if not directory.is_dir():
        raise IngestError(f"{directory} is a file, not a store. Give a directory.")
    try:
        card = json.loads((directory / _CARD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if any(directory.iterdir()):
            raise IngestError(f"{directory} is not empty and holds no store. Give another directory.") from None
        return None
    except (OSError, ValueError) as error:
        raise IngestError(f"{directory / _CARD} cannot be read ({error}). Delete the store and index again.") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        found = card.get("format") if isinstance(card, dict) else None
        raise IngestError(
            f"The store at {directory} has the format {found!r}; this version reads {FORMAT}. Use the version that "
            "made it, or index into another directory."
        )
    return card


def write_card(directory: Path, card: dict[str, Any]) -> None:
    """Write `store.json`, whole or not at all."""
    draft = directory / f"{_CARD}.{os.getpid()}"
    draft.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    draft.replace(directory / _CARD)


def _new_card(directory: Path, model: GritLM, passage_tokens: int) -> dict[str, Any]:
    from grit_integrations.chroma import VectorOrigin

    PassageSplitter(model, passage_tokens)  # refuse an impossible size before anything is written
    card = {"format": FORMAT, "origin": asdict(VectorOrigin.of(model)), "passage_tokens": passage_tokens}
    directory.mkdir(parents=True, exist_ok=True)
    write_card(directory, card)
    return card


def _check_origin(card: dict[str, Any], model: GritLM, directory: Path) -> None:
    from grit_integrations.chroma import VectorOrigin

    try:
        origin: VectorOrigin = VectorOrigin(**card["origin"])
    except (KeyError, TypeError) as error:
        raise IngestError(
            f"{directory / _CARD} does not name a model ({error}). Delete the store and index again."
        ) from error
    origin.check(VectorOrigin.of(model), f"The store at {directory}")


def _under(files: set[str], paths: Sequence[str | Path]) -> list[str]:
    """Return the files that are one of `paths` or lie below one of them."""
    roots = [place_of(Path(path)) for path in paths]
    return sorted(file for file in files if any(Path(file).is_relative_to(root) for root in roots))


def _batches(items: list[str], size: int = 1000) -> Iterator[list[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
