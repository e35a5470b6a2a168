"""Chroma: an embedding function for plain collections, and the check that a collection's vectors are this model's.

Chroma compares embedding functions by name only, so it would let one model query what another one stored. Here every
collection says which model made its vectors: one created with `GritEmbeddingFunction` in Chroma's own persisted
configuration, one that a framework creates in its metadata (`stamp`). `open_collection` and `check_collection` read
either and refuse another model before any work is done.

Chroma also refuses more records at once than its database takes, after they have been embedded; a collection of
`open_collection` hands them over in parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from grit_integrations.errors import CollectionMismatchError, MissingExtraError, OptionError
from grit_integrations.loading.sources import BUNDLED_NAME
from grit_integrations.model import GritLM
from grit_integrations.prompts.formats import check_characters, check_text

try:
    import chromadb
except ModuleNotFoundError as error:
    if error.name != "chromadb":
        raise  # chromadb is there but something that it needs is not: show that
    raise MissingExtraError("chromadb", "chroma") from None

from chromadb import Collection
from chromadb.api.types import Documents, EmbeddingFunction, Embeddings, Space
from chromadb.config import Settings
from chromadb.errors import ChromaError, NotFoundError
from chromadb.utils.embedding_functions import register_embedding_function

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

_STAMP = "grit_"  # prefix of our keys in a collection's metadata


@dataclass(frozen=True, slots=True)
class VectorOrigin:
    """What made a collection's vectors. All but `model`, which names it for people, must be equal for two to compare.

    Attributes:
        model: path, hub id or `"grit-mini"`.
        fingerprint: digest of weights, config and tokenizer.
        pooling: how token states became one vector.
        normalize: whether vectors have unit length.
        truncate_dim: how many leading dimensions were kept; 0 is all.
        document_instruction: what documents were embedded under.
    """

    model: str
    fingerprint: str
    pooling: str
    normalize: bool
    truncate_dim: int
    document_instruction: str = ""

    @classmethod
    def of(cls, model: GritLM, *, document_instruction: str | None = None) -> VectorOrigin:
        """Return the origin of the vectors that `model` makes of documents; reads no weights."""
        return cls(
            _place(model.source),
            model.fingerprint,
            model.pooling,
            model.settings.normalize,
            model.settings.truncate_dim or 0,
            model.document_instruction if document_instruction is None else document_instruction,
        )

    def check(self, wanted: VectorOrigin, where: str) -> None:
        """Raise `CollectionMismatchError` if vectors of this origin, found `where`, do not compare with `wanted`."""
        if self.fingerprint != wanted.fingerprint:
            raise CollectionMismatchError(
                f"{where} holds vectors of {self.model} (fingerprint {self.fingerprint}); the model now is "
                f"{wanted.model} (fingerprint {wanted.fingerprint}). Vectors of two models do not compare. Use the "
                "model it was built with, or index into a new place."
            )
        for name in ("pooling", "normalize", "truncate_dim", "document_instruction"):
            found, asked = getattr(self, name), getattr(wanted, name)
            if found != asked:
                raise CollectionMismatchError(
                    f"{where} holds vectors made with {name}={found!r}, and now {name}={asked!r} is asked for (the "
                    f"model is the same, {self.fingerprint}). Use {name}={found!r}, or index into a new place."
                )


@register_embedding_function
class GritEmbeddingFunction(EmbeddingFunction[Documents]):
    """Embed the texts of a plain Chroma collection; queries and documents take their own side of the model.

    Chroma stores the configuration, never weights: a collection that is opened later without an embedding function
    loads the same model again at first use, and refuses if other files have taken its place since. Chroma does not
    look at the configuration when it is opened with another function of this class: open it with `open_collection`.

    Args:
        model: a `GritLM`, or what its constructor takes as `source`. Its small files are read at once, because Chroma
            hides an error that it meets while it creates a collection; weights are loaded at first use.
        query_instruction: what queries are for, by default as the checkpoint says; it may change later as it likes.
        document_instruction: GRIT gives documents none; it is part of what the stored vectors are. By default as the
            checkpoint says.

    Raises:
        ModelLoadError: there is no usable checkpoint.
        OptionError: what names no model.
        PromptError: an instruction that is no text.

    Example:
        >>> import chromadb
        >>> from grit_integrations.chroma import GritEmbeddingFunction
        >>> client = chromadb.EphemeralClient()
        >>> docs = client.create_collection("heart", embedding_function=GritEmbeddingFunction("grit-mini"))
        >>> docs.add(ids=["1", "2"], documents=["The heart pumps blood.", "Stars shine by fusion."])
        >>> docs.query(query_texts=["What moves the blood?"], n_results=1)["ids"]
        [['1']]
    """

    def __init__(
        self,
        model: GritLM | str | Path = BUNDLED_NAME,
        *,
        query_instruction: str | None = None,
        document_instruction: str | None = None,
    ) -> None:
        check_characters(query_instruction or "", "The query's instruction")
        check_characters(document_instruction or "", "The document's instruction")
        self.query_instruction = query_instruction
        self.model = _as_grit(model)
        self.origin = VectorOrigin.of(self.model, document_instruction=document_instruction)
        self._checked = True

    def __call__(self, input: Documents) -> Embeddings:  # noqa: A002  # Chroma checks the argument's name
        """Embed documents: a list of (dim,) float32 arrays."""
        self._check_files()
        return list(self.model.embed_documents(input, instruction=self.origin.document_instruction))

    def embed_query(self, input: Documents) -> Embeddings:  # noqa: A002
        """Embed queries: a list of (dim,) float32 arrays."""
        self._check_files()
        return list(self.model.embed_queries(input, instruction=self.query_instruction))

    @staticmethod
    def name() -> str:
        """Return the name under which Chroma stores and finds this class."""
        return "gritlm"

    def default_space(self) -> Space:
        """Return the distance of a new collection: GRIT is trained with cosine similarity."""
        return "cosine"

    def supported_spaces(self) -> list[Space]:
        """Return the distances that rank as cosine does: all of them for vectors of unit length."""
        return ["cosine", "l2", "ip"] if self.model.settings.normalize else ["cosine"]

    def get_config(self) -> dict[str, Any]:
        """Return what makes this function again, as JSON."""
        options, files = self.model.load_options, self.model.files
        return {
            **asdict(self.origin),
            "revision": files.revision,
            "gguf_file": files.gguf_file,
            "adapter": _place(files.adapter) if files.adapter else None,
            "dtype": options.dtype,
            "embedding_head": None if options.embedding_head is None else str(options.embedding_head.resolve()),
            "query_instruction": self.query_instruction,
        }

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> GritEmbeddingFunction:
        """Return the function of a stored configuration; no file is opened before its first use.

        Chroma builds it anew for every query: the model is the process's one of that name, with its loaded weights.
        """
        GritEmbeddingFunction.validate_config(config)
        function = GritEmbeddingFunction.__new__(GritEmbeddingFunction)  # the constructor would read files
        options = {name: config[name] for name in _OPTIONS} | {"truncate_dim": config["truncate_dim"] or None}
        function.model = GritLM.named(config["model"], **options)
        function.query_instruction = config["query_instruction"]
        function.origin = _origin_of_config(config)
        function._checked = False
        return function

    @staticmethod
    def validate_config(config: dict[str, Any]) -> None:
        """Raise `OptionError` if `config` is not what `get_config` returns."""
        missing, unknown = sorted(_CONFIG.keys() - config.keys()), sorted(config.keys() - _CONFIG.keys())
        if missing or unknown:
            raise OptionError(
                f"This is no configuration of GritEmbeddingFunction: missing {missing}, unknown {unknown}. "
                "Was it stored by another version of grit_integrations?"
            )
        for key, kinds in _CONFIG.items():
            if type(config[key]) not in kinds:
                names = " or ".join(kind.__name__ for kind in kinds)
                raise OptionError(f"{key}={config[key]!r} is not possible in this configuration: wanted {names}.")

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Raise `CollectionMismatchError` if a change would make stored vectors incomparable."""
        try:
            _origin_of_config(old_config).check(_origin_of_config(new_config), "The collection")
        except CollectionMismatchError as error:
            raise CollectionMismatchError(
                f"{error} Chroma stores a change before it asks whether it is possible: undo this one with "
                "collection.modify(configuration={'embedding_function': ...}) and the function it was built with."
            ) from None

    def _check_files(self) -> None:
        """Refuse when the files at the configured place are no longer those that made the stored vectors."""
        if not self._checked:
            now = VectorOrigin.of(self.model, document_instruction=self.origin.document_instruction)
            self.origin.check(now, "The collection")
            self._checked = True


_CONFIG: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("model", "fingerprint", "pooling", "document_instruction", "dtype"), (str,)),
    **dict.fromkeys(("revision", "gguf_file", "adapter", "embedding_head", "query_instruction"), (str, type(None))),
    "normalize": (bool,),
    "truncate_dim": (int,),
}
_OPTIONS = ("revision", "gguf_file", "adapter", "dtype", "embedding_head", "pooling", "normalize")  # of GritLM


class PartedCollection(Collection):
    """A collection that takes any number of records at once; `open_collection` returns it.

    Chroma's database takes a few thousand at once, and Chroma itself finds that out when all of them have been
    embedded. Here each part is embedded and stored before the next begins, so that an error or an interruption keeps
    what was done. Texts are looked at before the first part.
    """

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Add records; the arguments are Chroma's."""
        for part in self._parts(*args, **kwargs):
            super().add(**part)

    def upsert(self, *args: Any, **kwargs: Any) -> None:
        """Add records, and change those that are there; the arguments are Chroma's."""
        for part in self._parts(*args, **kwargs):
            super().upsert(**part)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Change records; the arguments are Chroma's."""
        for part in self._parts(*args, **kwargs):
            super().update(**part)

    def _parts(self, *args: Any, **kwargs: Any) -> Iterator[dict[str, Any]]:
        named = signature(Collection.add).bind(self, *args, **kwargs).arguments.items()
        given = {name: _once(value) for name, value in named if name != "self"}
        if given.get("embeddings") is None and isinstance(given.get("documents"), list | tuple):
            for index, text in enumerate(given["documents"]):
                check_text(text, f"Document {index}")
        ids: Any = given.get("ids")
        most = self._client.get_max_batch_size()
        columns = [name for name, value in given.items() if value is not None]
        whole = not isinstance(ids, list) or len(ids) <= most or len(set(ids)) < len(ids)
        if whole or any(len(given[name]) != len(ids) for name in columns):
            yield given  # it fits, or is wrong: Chroma complains before it embeds
            return
        for start in range(0, len(ids), most):
            yield {**given, **{name: given[name][start : start + most] for name in columns}}


def _once(value: Any) -> Any:
    """Return an iterator's elements, since Chroma takes it for one element."""
    return list(value) if isinstance(value, Iterator) else value


def persistent_client(path: str | Path) -> ClientAPI:
    """Return a Chroma client on a local directory, with its telemetry off.

    Chroma keeps one client for each spelling of a path, so that a relative one would lead to where it led at first.

    Raises:
        OptionError: something else than a path.
    """
    if not isinstance(path, str | Path):
        raise OptionError(f"path={path!r} is not possible. Give the directory that holds the database.")
    return chromadb.PersistentClient(path=str(Path(path).absolute()), settings=Settings(anonymized_telemetry=False))


def open_collection(
    client: ClientAPI,
    name: str,
    model: GritLM | str | Path = BUNDLED_NAME,
    *,
    query_instruction: str | None = None,
    document_instruction: str | None = None,
) -> PartedCollection:
    """Return the collection `name`, created if it is not there, after checking that its vectors are this model's.

    Programs that create it at the same time get the same one. The result serves a plain Chroma program, LlamaIndex
    (`ChromaVectorStore(chroma_collection=...)`) and LangChain (`Chroma(client=client, collection_name=name,
    embedding_function=...)`) alike.

    Raises:
        CollectionMismatchError: its vectors were made by another model, or it does not say by which.
        ModelLoadError: there is no usable checkpoint.
    """
    function = GritEmbeddingFunction(
        model, query_instruction=query_instruction, document_instruction=document_instruction
    )
    mark = stamp(function.model, document_instruction=document_instruction)
    chroma_function = cast(
        "EmbeddingFunction[Any]", function
    )  # Chroma's clients are typed for texts and images at once
    try:
        collection = client.get_collection(name, embedding_function=None)
    except NotFoundError:
        collection = _created(client, name, chroma_function, mark)
    check_collection(collection, function.model, document_instruction=document_instruction)
    if _recorded_origin(collection) is None:  # empty, so it may become ours
        collection.modify(metadata={**(collection.metadata or {}), **mark})
    opened = client.get_collection(name, embedding_function=chroma_function)
    return PartedCollection(client=opened._client, model=opened._model, embedding_function=chroma_function)


def _created(
    client: ClientAPI, name: str, function: EmbeddingFunction[Any], mark: dict[str, str | int | bool]
) -> Collection:
    """Create a collection, or return the one that another program has created meanwhile."""
    try:
        return client.create_collection(name, embedding_function=function, metadata=mark)
    except ChromaError:  # which of them it is depends on the client
        try:
            return client.get_collection(name, embedding_function=None)
        except NotFoundError:
            pass
        raise  # it was another complaint, such as an impossible name


def stamp(model: GritLM | str | Path, *, document_instruction: str | None = None) -> dict[str, str | int | bool]:
    """Return collection metadata that says which model makes its vectors; reads no weights.

    Give it to a framework that creates the collection itself: `Chroma(..., collection_metadata=stamp(grit))`.
    """
    origin = VectorOrigin.of(_as_grit(model), document_instruction=document_instruction)
    return {f"{_STAMP}{key}": value for key, value in asdict(origin).items()}


def check_collection(
    collection: Collection, model: GritLM | str | Path, *, document_instruction: str | None = None
) -> None:
    """Refuse a collection whose vectors do not compare with those of `model`; reads no weights.

    An empty collection that does not say which model it is for passes.

    Raises:
        CollectionMismatchError: another model made its vectors (the message has both fingerprints), or it does not
            say which one did.
    """
    where = f"The Chroma collection {collection.name!r}"
    recorded = _recorded_origin(collection)
    wanted = VectorOrigin.of(_as_grit(model), document_instruction=document_instruction)
    if recorded is not None:
        recorded.check(wanted, where)
    elif count := collection.count():
        raise CollectionMismatchError(
            f"{where} holds {count:,} vectors and does not say which model made them; the model now is {wanted.model} "
            f"(fingerprint {wanted.fingerprint}). If you know that it made them, say so: "
            "collection.modify(metadata={**(collection.metadata or {}), **stamp(model)})."
        )


def _recorded_origin(collection: Collection) -> VectorOrigin | None:
    """Return what made the collection's vectors: from our stamp in its metadata, or from Chroma's configuration."""
    metadata = collection.metadata or {}
    stamped = {key.removeprefix(_STAMP): value for key, value in metadata.items() if key.startswith(_STAMP)}
    if stamped.keys() >= _ORIGIN_KEYS:
        return _origin_of_config(stamped)
    stored = collection.configuration_json.get("embedding_function") or {}
    if stored.get("name") != GritEmbeddingFunction.name():
        return None
    GritEmbeddingFunction.validate_config(stored["config"])
    return _origin_of_config(stored["config"])


_ORIGIN_KEYS = frozenset(field.name for field in fields(VectorOrigin))


def _origin_of_config(config: Mapping[str, Any]) -> VectorOrigin:
    return VectorOrigin(**{key: config[key] for key in _ORIGIN_KEYS})


def _as_grit(model: GritLM | str | Path) -> GritLM:
    if isinstance(model, GritLM):
        return model
    if not isinstance(model, str | Path) or not str(model):
        raise OptionError(f"model={model!r} names no model. Give a GritLM, a directory, a hub id, or 'grit-mini'.")
    return GritLM(model)


def _place(source: str) -> str:
    """Return a folder wherever the process stands; the bundled model's name and a hub id as they are."""
    return str(Path(source).resolve()) if source != BUNDLED_NAME and Path(source).is_dir() else source
