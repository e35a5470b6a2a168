"""GGUF files: de-quantised once into a directory of safetensors in the package's cache, and loaded from there."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grit_integrations.errors import ModelLoadError
from grit_integrations.loading.configs import check_architecture
from grit_integrations.loading.digests import cache_folder, file_digest
from grit_integrations.loading.shards import check_regular
from grit_integrations.progress import progress_bar

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_KNOWN = re.compile(r"token_embd\.weight|output_norm\.weight|output\.weight|blk\.\d+\..+")
_FORMAT = 1  # of the directories: another number makes them anew
_MAGIC = b"GGUF"
_SIZES = "converted.json"  # written last: the other files of a directory, with their sizes
_PARTIAL = ".converting-"  # and the number of the process


def converted(path: Path, *, progress: bool | None = None) -> Path:
    """Return a checkpoint directory with the weights of a GGUF file in float32, made if it is not there yet.

    The file is read by transformers; what it knows can be loaded. The directory lies in the package's cache under the
    digest of all bytes of the file. It appears there whole: another process that converts the same file at the same
    time makes the same one.

    Args:
        path: the file.
        progress: show a bar while converting; `None` shows it on a terminal.

    Raises:
        ModelLoadError: no GGUF file, truncated, of an architecture or a quantisation that cannot be read; or there is
            no room for what it becomes.
    """
    if check_regular(path).open("rb").read(len(_MAGIC)) != _MAGIC:
        raise ModelLoadError(f"{path} is no GGUF file. Give gguf_file= the name of one in that folder or repository.")
    folder = cache_folder() / "gguf"
    target = folder / f"{file_digest(path)}-{_FORMAT}"
    if not _is_whole(target):
        _check_file(path)
        with _made(folder, target) as partial:
            _convert(path, partial, progress)
    return target


def _is_whole(target: Path) -> bool:
    """Whether a directory holds what was written into it; one that was damaged is made again."""
    try:
        sizes = json.loads((target / _SIZES).read_text(encoding="utf-8"))
        return all((target / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


@contextmanager
def _made(folder: Path, target: Path) -> Iterator[Path]:
    """Give a directory to write to, which becomes `target` if all goes well and is removed if not."""
    partial = folder / f"{_PARTIAL}{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        sizes = {file.name: file.stat().st_size for file in sorted(partial.iterdir())}
        (partial / _SIZES).write_text(json.dumps(sizes), encoding="utf-8")
        if not _is_whole(target):
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
    except OSError as error:
        if not _is_whole(target):  # otherwise another process was faster
            raise ModelLoadError(
                f"{folder} cannot take the converted weights: {error}. Make room, or set GRIT_CACHE to another folder."
            ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _clear(folder: Path) -> None:
    """Remove what processes that were killed have left."""
    for left in folder.glob(f"{_PARTIAL}*"):
        if not _runs(left.name.removeprefix(_PARTIAL)):
            shutil.rmtree(left, ignore_errors=True)


def _runs(number: str) -> bool:
    try:
        os.kill(int(number), 0)
    except (ValueError, ProcessLookupError):
        return False
    except OSError:  # another user's
        return True
    return True


def _check_file(path: Path) -> None:
    """Refuse a file whose table or tensors are not whole, before transformers reads it."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        architecture = reader.fields["general.architecture"].contents()
        ends = [int(tensor.data_offset) + int(tensor.n_bytes) for tensor in reader.tensors]
    except Exception as error:  # whatever the reader makes of damaged bytes, or of a type that it does not know
        kind = type(error).__name__
        raise ModelLoadError(
            f"{path} cannot be read ({kind}: {error}): truncated, altered, or of an unknown quantisation. "
            "Download it again, or take another quantisation of the model."
        ) from error
    unknown = sorted(tensor.name for tensor in reader.tensors if not _KNOWN.fullmatch(tensor.name))
    if unknown:
        raise ModelLoadError(
            f"{path} has a tensor {unknown[0]}, which transformers' reader leaves out: the model would silently be "
            "another. Take the model's safetensors."
        )
    if not ends or max(ends) > path.stat().st_size:
        raise ModelLoadError(f"{path} is truncated: its tensors end behind the file. Download it again.")
    check_architecture({"model_type": architecture, "architectures": ["ForCausalLM"], **_ANY_SIZES}, str(path))


_ANY_SIZES = dict.fromkeys(
    ("hidden_size", "vocab_size", "max_position_embeddings", "num_hidden_layers", "num_attention_heads"), 1
)


def _convert(path: Path, out: Path, progress: bool | None) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _bar_as(progress):
        try:
            where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
            tokenizer = AutoTokenizer.from_pretrained(path.parent, **where)
            lm = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **where)
        except Exception as error:  # transformers raises whatever a damaged file makes of itself
            kind = type(error).__name__
            raise ModelLoadError(f"{path} could not be converted ({kind}: {error}).") from error
    tokenizer.save_pretrained(out)
    (out / "config.json").write_text(json.dumps(_config(lm), indent=1), encoding="utf-8")
    save_file(_tensors(lm), out / "model.safetensors", metadata={"format": "pt"})


def _config(lm: PreTrainedModel) -> Mapping[str, Any]:
    """Return what config.json says of the de-quantised weights."""
    config = lm.config.to_dict()
    dropped = ("quantization_config", "_name_or_path")
    kept = {key: value for key, value in config.items() if key not in dropped}
    return {**kept, "architectures": [type(lm).__name__], "dtype": "float32"}


def _tensors(lm: PreTrainedModel) -> dict[str, Tensor]:
    """Return the weights, a head that shares the table of token embeddings left out."""
    tied = lm.config.tie_word_embeddings
    state = lm.state_dict().items()
    return {name: value.contiguous() for name, value in state if not (tied and name == "lm_head.weight")}


@contextmanager
def _bar_as(progress: bool | None) -> Iterator[None]:
    """Show one bar of our kind while transformers reads the tensors, instead of its own, which cannot be turned off."""
    from transformers import modeling_gguf_pytorch_utils as reading
    from transformers.utils import logging as transformers_logging

    shown, theirs = transformers_logging.is_progress_bar_enabled(), reading.tqdm  # type: ignore[attr-defined]

    def ours(tensors: Any, **_: Any) -> Any:
        return progress_bar(tensors, desc="Converting GGUF", unit="tensor", shown=progress)

    reading.tqdm = ours  # type: ignore[attr-defined, assignment]
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        reading.tqdm = theirs  # type: ignore[attr-defined]
        if shown:
            transformers_logging.enable_progress_bar()
