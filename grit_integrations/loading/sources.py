"""Where a checkpoint is: a directory, the hub's cache, or this package."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from weakref import WeakValueDictionary

from grit_integrations.errors import ModelLoadError
from grit_integrations.loading.adapters import CONFIG as ADAPTER_CONFIG
from grit_integrations.loading.adapters import Adapter, is_adapter
from grit_integrations.loading.checkpoint import Checkpoint, identity_of
from grit_integrations.loading.gguf_files import converted
from grit_integrations.loading.grit_config import GRIT_CONFIG, GritConfig
from grit_integrations.loading.shards import check_regular, read_json

BUNDLED_NAME = "grit-mini"
BUNDLED = Path(__file__).parents[1] / "bundled" / BUNDLED_NAME
_HUB_FILES = ("*.json", "*.safetensors", "tokenizer.model", "*.txt", "*.jinja")


def default_source() -> str:
    """Return the model that adapters use when none is named: the environment's `GRIT_MODEL`, else the bundled one."""
    return os.environ.get("GRIT_MODEL") or BUNDLED_NAME


def is_source_named() -> bool:
    """Return whether the environment names the model that adapters use."""
    return bool(os.environ.get("GRIT_MODEL"))


def default_device() -> str | None:
    """Return the environment's `GRIT_DEVICE`; `None` is the best device here."""
    return os.environ.get("GRIT_DEVICE") or None


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """Which files of a source make a checkpoint."""

    revision: str | None = None  # of a hub repository
    gguf_file: str | None = None  # the weights, by their name in the folder or repository
    adapter: str | None = None  # folder or hub id of a PEFT adapter
    local_files_only: bool = False


def find_checkpoint(
    source: str | Path, options: SourceOptions | None = None, *, progress: bool | None = None
) -> Checkpoint:
    """Return the checkpoint that comes along, that in a directory, or that of a hub repository (fetched first).

    Only JSON, safetensors and tokenizer files are fetched, or the GGUF file that is named; GritLM's repositories also
    carry the same weights pickled. A folder that holds an adapter alone stands for its base with the adapter on it.

    Args:
        source: the bundled name, a directory, or a hub id.
        options: which of its files.
        progress: show a bar while a GGUF file is converted; `None` shows it on a terminal.

    Raises:
        ModelLoadError: no such directory, something in it that is no file, or the hub cannot be reached or has no such
            repository.
    """
    options, name = options or SourceOptions(), str(source)
    place = BUNDLED if name == BUNDLED_NAME else Path(source).expanduser()
    if options.gguf_file is not None:
        file = _gguf_file(place, name, options)
        return _with_adapter(converted(file, progress=progress), name, options, (file,))
    directory = _directory(place, name, options.revision, options.local_files_only)
    if not is_adapter(directory):
        return _with_adapter(directory, name, options, ())
    if options.adapter is not None:
        raise ModelLoadError(
            f"{name} is an adapter by itself; adapter={options.adapter!r} would be a second. Give one."
        )
    return _of_adapter(directory, name, options, progress)


def _with_adapter(directory: Path, name: str, options: SourceOptions, origins: tuple[Path, ...]) -> Checkpoint:
    if options.adapter is None:
        return _opened(directory, name, origins=origins)
    place = Path(options.adapter).expanduser()
    folder = _directory(place, options.adapter, None, options.local_files_only)
    if not (folder / ADAPTER_CONFIG).exists():
        raise ModelLoadError(f"adapter={options.adapter!r} has no {ADAPTER_CONFIG}. Give a folder in PEFT's format.")
    return _opened(directory, name, origins=(*origins, folder), adapter=Adapter(folder))


def _of_adapter(folder: Path, name: str, options: SourceOptions, progress: bool | None) -> Checkpoint:
    """Return the base that an adapter's folder names, with the adapter on it."""
    _check_files(folder)
    path = folder / GRIT_CONFIG
    named = GritConfig.of(read_json(path), name).base if path.exists() else None
    adapter = Adapter(folder)
    if named is not None:
        file = named.find(name, local_files_only=options.local_files_only)
        directory, origins = converted(file, progress=progress), (file, folder)
        return _opened(directory, name, origins=origins, adapter=adapter)
    base = adapter.config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelLoadError(
            f"{name} is an adapter and does not say of what. Give the model that it was trained on, and "
            f"adapter={name!r}."
        )
    directory = _directory(Path(base).expanduser(), base, adapter.config.get("revision"), options.local_files_only)
    return _opened(directory, name, origins=(folder,), adapter=adapter)


def _directory(path: Path, name: str, revision: str | None, local_files_only: bool) -> Path:
    """Return the folder that a path or a hub id means."""
    if path.is_dir():
        return path.resolve()
    _check_hub_id(path, name)
    return _download(name, revision, local_files_only)


def _check_hub_id(path: Path, name: str) -> None:
    if path.exists() or path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise ModelLoadError(
            f"{name!r} is no directory and no hub id. Give a directory that holds config.json and *.safetensors, "
            "or an id such as 'GritLM/GritLM-7B'."
        )


def _gguf_file(path: Path, name: str, options: SourceOptions) -> Path:
    from huggingface_hub import hf_hub_download

    file = str(options.gguf_file)
    if Path(file).is_absolute() or ".." in Path(file).parts:
        raise ModelLoadError(f"gguf_file={file!r} must be the name of a file in {name}.")
    if path.is_dir():
        if not (path / file).exists():
            others = sorted(each.name for each in path.glob("*.gguf"))
            raise ModelLoadError(f"{name} has no {file}. It has {', '.join(others) or 'no GGUF file'}.")
        return path.resolve() / file
    _check_hub_id(path, name)
    try:
        found = hf_hub_download(name, file, revision=options.revision, local_files_only=options.local_files_only)
    except Exception as error:
        raise _not_fetched(f"{file} of {name!r}", error) from error
    return Path(found)


_open: WeakValueDictionary[tuple[str, str], Checkpoint] = WeakValueDictionary()


def _opened(
    directory: Path, name: str, *, origins: tuple[Path, ...] = (), adapter: Adapter | None = None
) -> Checkpoint:
    """Return the process's one object for a directory, so that its tokenizer is read once and shared."""
    origins = (*origins, *_embedding_folder(directory if adapter is None else adapter.directory))
    for folder in (directory, *(place for place in origins if place.is_dir())):
        _check_files(folder)
    checkpoint = Checkpoint(directory, name, identity_of(directory, *origins), adapter, origins)
    return _open.setdefault((checkpoint.identity, name), checkpoint)


def _embedding_folder(home: Path) -> list[Path]:
    """Return the folder of the adapter for embedding alone that a checkpoint has beside its grit_config.json."""
    path = home / GRIT_CONFIG
    if not path.is_file():  # what else it may be is refused when it is read
        return []
    folder = read_json(path).get("embedding_adapter")
    named = home / folder if isinstance(folder, str) and folder not in ("", ".") else home
    return [named] if named != home and named.is_dir() else []


def _check_files(directory: Path) -> None:
    """Refuse what is no file under the name of one, also where transformers opens it: it would wait in a pipe."""
    try:
        files = sorted(directory.iterdir())
    except OSError as error:
        raise ModelLoadError(f"{directory} cannot be read: {error}.") from error
    for file in files:
        if any(fnmatch(file.name, pattern) for pattern in _HUB_FILES):
            check_regular(file)


def _download(name: str, revision: str | None, local_files_only: bool) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=list(_HUB_FILES), local_files_only=local_files_only
            )
        )
    except Exception as error:
        raise _not_fetched(repr(name), error) from error


def _not_fetched(what: str, error: Exception) -> ModelLoadError:
    return ModelLoadError(
        f"{what} is no local directory and could not be fetched from the hub ({type(error).__name__}: {error}). "
        "Check the name, the revision and the network, or give a local directory."
    )
