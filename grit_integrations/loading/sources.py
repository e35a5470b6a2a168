"""Where a checkpoint is: a directory, the hub's cache, or this package."""

from __future__ import annotations

import os
from pathlib import Path
from weakref import WeakValueDictionary

from grit_integrations.errors import ModelLoadError
from grit_integrations.loading.checkpoint import Checkpoint, identity_of

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


def find_checkpoint(source: str | Path, *, revision: str | None = None, local_files_only: bool = False) -> Checkpoint:
    """Return the checkpoint that comes along, that in a directory, or that of a hub repository (fetched first).

    Only JSON, safetensors and tokenizer files are fetched; GritLM's repositories also carry the same weights pickled.

    Raises:
        ModelLoadError: no such directory, or the hub cannot be reached or has no such repository.
    """
    path, name = Path(BUNDLED if source == BUNDLED_NAME else source).expanduser(), str(source)
    if path.is_dir():
        return _opened(path.resolve(), name)
    if path.exists() or path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise ModelLoadError(
            f"{name!r} is no directory and no hub id. Give a directory that holds config.json and *.safetensors, "
            "or an id such as 'GritLM/GritLM-7B'."
        )
    return _opened(_download(name, revision, local_files_only), name)


_open: WeakValueDictionary[tuple[str, str], Checkpoint] = WeakValueDictionary()


def _opened(directory: Path, name: str) -> Checkpoint:
    """Return the process's one object for a directory, so that its tokenizer is read once and shared."""
    checkpoint = Checkpoint(directory, name, identity_of(directory))
    return _open.setdefault((checkpoint.identity, name), checkpoint)


def _download(name: str, revision: str | None, local_files_only: bool) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=list(_HUB_FILES), local_files_only=local_files_only
            )
        )
    except Exception as error:
        raise ModelLoadError(
            f"{name!r} is no local directory and could not be fetched from the hub ({type(error).__name__}: {error}). "
            "Check the name, the revision and the network, or give a local directory."
        ) from error
