"""One block, one file: the format on disk.

A file is `blocks/<2 hex>/<key>-<digest>.safetensors`; the digest is over the whole file, header included, so the file
proves itself without the index. It is a normal safetensors file. It is written and read here rather than by
`safetensors.torch`: that one serialises with Python's lock held, hides the errno of a full disk, and opens by name, so
what was checked and what was used could be two files.

A block is a copy in memory, and the checksum is of that copy. A mapped file would be others' to change: one that
shrinks ends the process that reads it (SIGBUS), one that is altered alters the block, and each costs a descriptor.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grit_integrations.errors import CacheCorruptError, CacheError
from grit_integrations.kv.blocks import KVBlock
from grit_integrations.kv.store.regular import open_regular

FORMAT = "grit-kv-1"
_CHUNK = 4 << 20
_ALIGNMENT = 64  # bytes, of the first tensor in the file
_LARGEST_HEADER = 1 << 20
_DTYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I32": torch.int32,
    "I8": torch.int8,
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_KEY = re.compile(r"[0-9a-f]{2,128}")
_NAME = re.compile(r"([0-9a-f]{2,128})-([0-9a-f]{32})\.safetensors")


def is_key(key: str) -> bool:
    """Return whether `key` can name a file: 2 to 128 lower-case hexadecimal digits."""
    return isinstance(key, str) and _KEY.fullmatch(key) is not None


def file_name(key: str, digest: str) -> str:
    """Return the name of a block's file."""
    return f"{key}-{digest}.safetensors"


def key_of(name: str) -> str | None:
    """Return the key that a file name holds, or None for a name that is not ours."""
    match = _NAME.fullmatch(name)
    return match[1] if match else None


@dataclass(frozen=True, slots=True)
class Header:
    """What the head of a file says.

    Attributes:
        tensors: dtype, shape and first byte (in the file) of each.
        file_bytes: how long the file must be.
    """

    key: str
    namespace: str
    metadata: dict[str, str]
    tensors: dict[str, tuple[torch.dtype, list[int], int]]
    file_bytes: int

    @property
    def tokens(self) -> int:
        """How many tokens the block has."""
        return self.tensors["token_ids"][1][0]


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A checked file's block, in memory of its own."""

    block: KVBlock
    header: Header


def write_file(path: Path, key: str, namespace: str, block: KVBlock) -> tuple[str, int]:
    """Write a new file and fsync it; return its digest and its bytes.

    Raises:
        CacheError: tensors of a precision that no file holds.
        OSError: as the disk says; a part of the file may be left.
    """
    digest, size = hashlib.blake2b(digest_size=16), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        for piece in _pieces(key, namespace, block):
            digest.update(piece)
            _write_all(file, piece)
            size += len(piece)
        os.fsync(file.fileno())
    return digest.hexdigest(), size


def read_header(path: Path) -> Header:
    """Return the header of a file whose length is as the header says; the tensors are not read.

    Raises:
        CacheCorruptError: torn, foreign, of another format version, or under another key's name.
        OSError: as the disk says.
    """
    with open_regular(path) as file:
        return _header(file, path)


def check_file(path: Path) -> None:
    """Read a whole file and check it against its name; it is never in memory as a whole.

    Raises:
        CacheCorruptError: torn, altered or foreign.
        OSError: as the disk says.
    """
    with open_regular(path) as file:
        _header(file, path)
        digest, buffer = hashlib.blake2b(digest_size=16), memoryview(bytearray(_CHUNK))
        file.seek(0)
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
        _check_digest(digest.hexdigest(), path)


def open_file(path: Path) -> OpenedFile:
    """Return the block of a file: read as a whole, then checked, so that nothing done to the file reaches it.

    Raises:
        CacheCorruptError: torn, altered or foreign.
        OSError, MemoryError: as the disk and the memory say.
    """
    with open_regular(path) as file:
        header = _header(file, path)
        data, digest = _read_all(file, header.file_bytes)
    _check_digest(digest, path)
    try:
        tensors = {name: _tensor(data, *place) for name, place in header.tensors.items()}
        block = KVBlock.from_tensors(tensors, header.metadata)
    except (ValueError, TypeError, RuntimeError) as error:  # a whole file, but not of a block
        raise _corrupt(path, str(error)) from error
    return OpenedFile(block, header)


# Writing


def _pieces(key: str, namespace: str, block: KVBlock) -> Iterator[memoryview | bytes]:
    """Yield the bytes of a file; the tensors' as views of their memory."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in block.tensors().items()}
    # Wide elements first, so that every tensor is aligned to its element; then large tensors.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), -tensors[name].numel(), name))
    entries: dict[str, Any] = {
        "__metadata__": {**block.metadata(), "format": FORMAT, "key": key, "namespace": namespace}
    }
    offset = 0
    for name in names:
        tensor, start = tensors[name], offset
        if tensor.dtype not in _DTYPE_NAMES:
            raise CacheError(
                f"A block's {name} are {tensor.dtype}, which no file holds. Use {', '.join(_DTYPE_NAMES.values())}."
            )
        offset += tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, offset],
        }
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-(len(header) + 8) % _ALIGNMENT)
    yield len(header).to_bytes(8, "little") + header
    for name in names:
        data = tensors[name].reshape(-1).view(torch.uint8).numpy().data
        yield from (data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK))


def _write_all(file: FileIO, piece: memoryview | bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[file.write(view) :]


# Reading


def _header(file: FileIO, path: Path) -> Header:
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little") if size >= 8 else _LARGEST_HEADER + 1
    if length > _LARGEST_HEADER or 8 + length > size:
        raise _corrupt(path, f"{size} bytes do not hold a whole header")
    try:
        header = _parse(json.loads(file.read(length)), 8 + length)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _corrupt(path, f"its header cannot be read ({type(error).__name__}: {error})") from error
    if header.file_bytes != size:
        raise _corrupt(path, f"it has {size} bytes and its header describes {header.file_bytes}")
    if key_of(path.name) != header.key:
        raise _corrupt(path, f"it holds the block of another key, {header.key[:16]}…")
    return header


def _parse(entries: dict[str, Any], start: int) -> Header:
    """Return the header; anything odd raises ValueError, KeyError or TypeError."""
    metadata: dict[str, str] = entries.pop("__metadata__")
    if metadata["format"] != FORMAT:
        raise ValueError(f"its format is {metadata['format']!r}, wanted {FORMAT!r}")
    tensors, end = {}, start
    for name, entry in entries.items():
        dtype, shape, (first, stop) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        count = math.prod(shape)
        numbers = [*shape, first, stop]
        if any(type(number) is not int or number < 0 for number in numbers) or stop - first != count * dtype.itemsize:
            raise ValueError(f"{name} has shape {shape} and bytes {first} to {stop}")
        tensors[name] = (dtype, shape, start + first)
        end = max(end, start + stop)
    header = Header(metadata["key"], metadata["namespace"], metadata, tensors, end)
    if header.tokens <= 0 or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("it has no tokens, or facts that are not text")
    return header


def _check_digest(found: str, path: Path) -> None:
    if path.name != file_name(str(key_of(path.name)), found):
        raise _corrupt(path, f"its checksum is {found}")


def _read_all(file: FileIO, size: int) -> tuple[Tensor, str]:
    """Return the bytes of a file, or fewer if it has shrunk, as a uint8 tensor, and their digest."""
    try:
        data = torch.empty(size, dtype=torch.uint8)
    except RuntimeError as error:
        raise MemoryError(f"{size} bytes for a stored block: {error}") from error
    view, digest, end = data.numpy().data, hashlib.blake2b(digest_size=16), 0
    file.seek(0)
    while count := file.readinto(view[end : end + _CHUNK]):
        digest.update(view[end : end + count])
        end += count
    return data[:end], digest.hexdigest()


def _tensor(data: Tensor, dtype: torch.dtype, shape: list[int], offset: int) -> Tensor:
    return data[offset : offset + math.prod(shape) * dtype.itemsize].view(dtype).view(shape)


def _corrupt(path: Path, found: str) -> CacheCorruptError:
    return CacheCorruptError(
        f"{path} is not a whole {FORMAT} block: {found}. It is moved to quarantine and its block is computed again."
    )
