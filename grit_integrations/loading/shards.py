"""Safetensors files: what they hold, read from their headers alone, and whether they are whole."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grit_integrations.errors import ModelLoadError

_LONGEST_NAME = 255  # bytes
_LONGEST_HEADER = 100_000_000  # bytes; safetensors itself refuses longer ones


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file: its shape, and where its bytes end behind the header."""

    shape: tuple[int, ...]
    end: int

    @property
    def numel(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


def find_shards(directory: Path, name: str) -> list[Path]:
    """Return the files of a checkpoint's weights, all of them there.

    Raises:
        ModelLoadError: files are missing, pickled, or no regular files; or the index of shards is damaged.
    """
    index = directory / "model.safetensors.index.json"
    shards = _listed(index) if index.exists() else sorted(directory.glob("model.safetensors"))
    missing = [shard.name for shard in shards if not shard.exists()]
    if missing:
        raise ModelLoadError(f"{name}: {', '.join(missing)} of {len(shards)} shards missing. Download them again.")
    if not shards:
        raise ModelLoadError(_no_safetensors(directory, name))
    return shards


def tensors_of(shard: Path) -> Mapping[str, TensorEntry]:
    """Return the tensors of a file that is whole, by name.

    Raises:
        ModelLoadError: truncated, altered, or no safetensors file; nothing beyond a header of 100 MB is read.
    """
    header, start = _header(shard)
    try:
        found = {name: _entry(entry) for name, entry in header.items() if name != "__metadata__"}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelLoadError(
            f"{shard} has a damaged header ({type(error).__name__}: {error}). Download it again."
        ) from error
    wanted, size = start + max((entry.end for entry in found.values()), default=0), shard.stat().st_size
    if size != wanted:
        raise ModelLoadError(f"{shard} is truncated or altered: {size:,} bytes, {wanted:,} wanted. Download it again.")
    return found


def check_regular(path: Path) -> Path:
    """Return `path` if it is a file; opening a FIFO would wait for ever.

    Raises:
        ModelLoadError: it is something else, or not there.
    """
    if not path.is_file():
        kind = "no regular file" if path.exists() else "not there"
        raise ModelLoadError(f"{path} is {kind}. Put the checkpoint's own file in its place.")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        ModelLoadError: no such file, or something else in it.
    """
    if not path.exists():
        raise ModelLoadError(
            f"{path.parent} has no {path.name}. Give the directory of a whole checkpoint in the Hugging Face layout."
        )
    try:
        content = json.loads(check_regular(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path} cannot be read as JSON: {error}. Download it again.") from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{path} holds a {type(content).__name__}, not an object. Download it again.")
    return content


def _listed(index: Path) -> list[Path]:
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not all(map(_is_file_name, files.values())):
        raise ModelLoadError(f"{index} does not say which tensor is in which file. Download it again.")
    return [index.with_name(file) for file in sorted(set(files.values()))]


def _is_file_name(name: object) -> bool:
    """Whether a shard can have this name, in the checkpoint's own folder and in any file system."""
    named = isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name
    return named and len(str(name).encode(errors="replace")) <= _LONGEST_NAME


def _header(shard: Path) -> tuple[dict[str, Any], int]:
    """Return a file's table of tensors, and where their bytes begin."""
    size = check_regular(shard).stat().st_size
    with shard.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length + 8 > size:
            raise ModelLoadError(f"{shard} is truncated ({size:,} bytes, header incomplete). Download it again.")
        if length > _LONGEST_HEADER:
            raise ModelLoadError(f"{shard} claims a header of {length:,} bytes, which no model has. Download it again.")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise ModelLoadError(f"{shard} is no safetensors file ({error}). Download it again.") from error
    if not isinstance(header, dict):
        raise ModelLoadError(f"{shard} has a {type(header).__name__} where its table is. Download it again.")
    return header, 8 + length


def _entry(entry: Mapping[str, Any]) -> TensorEntry:
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if not all(isinstance(number, int) and number >= 0 for number in (begin, end, *shape)) or begin > end:
        raise ValueError(f"offsets {begin!r} to {end!r}, shape {shape!r}")
    return TensorEntry(shape, end)


def _no_safetensors(directory: Path, name: str) -> str:
    pickled: Sequence[str] = sorted(p.name for p in directory.iterdir() if p.suffix in (".bin", ".pt", ".pth"))
    if not pickled:
        return f"{name} has no model.safetensors and no index of shards. Download the whole checkpoint."
    return (
        f"{name} has only pickled weights ({', '.join(pickled[:3])}), which can run code when opened and are refused. "
        "Use a revision with safetensors, or convert them where you trust them: "
        "AutoModelForCausalLM.from_pretrained(dir, weights_only=True).save_pretrained(out)."
    )
