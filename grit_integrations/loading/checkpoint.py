"""What a checkpoint directory must be to be accepted, checked from its small files before any weight is read."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from grit_integrations.errors import ModelLoadError
from grit_integrations.prompts.golden import MISTRAL_GOLDEN, check_boundaries, check_golden
from grit_integrations.prompts.tokenizer import PromptTokenizer

MODEL_TYPES = ("mistral", "mixtral", "llama", "qwen2", "qwen3")
GRIT_CONFIG = "grit_config.json"
_SAMPLE = 4096  # bytes hashed at each end of each tensor


@dataclass(frozen=True)
class Checkpoint:
    """A directory in the Hugging Face layout that holds a GRIT model: config, safetensors weights, fast tokenizer."""

    directory: Path
    name: str

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The contents of config.json."""
        return _read_json(self.directory / "config.json")

    @cached_property
    def grit_config(self) -> Mapping[str, Any]:
        """The contents of grit_config.json, which this package's trainer writes; empty for other models."""
        path = self.directory / GRIT_CONFIG
        return _read_json(path) if path.exists() else {}

    @property
    def dtype(self) -> str:
        """Precision of the stored weights, such as `"bfloat16"`."""
        return str(self.config.get("dtype") or self.config.get("torch_dtype") or "float32")

    @property
    def window(self) -> int:
        """The most tokens that prompt and answer may have together."""
        return int(self.config["max_position_embeddings"])

    @cached_property
    def tokenizer(self) -> PromptTokenizer:
        """The prompt tokenizer, checked against the ids that the model was trained with."""
        return _load_tokenizer(self)

    @cached_property
    def shards(self) -> Sequence[Path]:
        """The safetensors files, each checked to be complete."""
        return _complete_shards(self.directory, self.name)

    @cached_property
    def fingerprint(self) -> str:
        """A digest that changes when weights, config or tokenizer change.

        Weights enter by their names, shapes and the first and last 4 KiB of each tensor: a fine-tuned model differs
        there, and 14 GB need not be read.
        """
        digest = hashlib.blake2b(digest_size=16)
        ignored = {"_name_or_path", "auto_map", "transformers_version"}
        config = {key: value for key, value in self.config.items() if key not in ignored}
        digest.update(json.dumps([config, self.grit_config], sort_keys=True).encode())
        digest.update(self.tokenizer.digest().encode())
        for shard in self.shards:
            _hash_shard(shard, digest)
        return digest.hexdigest()

    def identity(self) -> str:
        """Return a string that changes when the checkpoint is written anew in the same place."""
        files = sorted([*self.directory.glob("*.safetensors"), *self.directory.glob("*.json")])
        stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return f"{self.directory}{stats}"

    def check(self) -> None:
        """Refuse a checkpoint that cannot be used, without reading its weights.

        Raises:
            ModelLoadError: with what was found, what is needed, and the cure.
        """
        _check_architecture(self)
        _ = self.shards
        _ = self.tokenizer


def digest_with_head(fingerprint: str, head: Path) -> str:
    """Return the fingerprint of a checkpoint under a projection head.

    Raises:
        ModelLoadError: the head cannot be read.
    """
    digest = hashlib.blake2b(fingerprint.encode(), digest_size=16)
    try:
        digest.update(head.read_bytes())
    except OSError as error:
        raise ModelLoadError(f"embedding_head={str(head)!r} cannot be read: {error}") from error
    return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelLoadError(
            f"{path.parent} has no {path.name}. Give the directory of a whole checkpoint in the Hugging Face layout."
        ) from None
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path} cannot be read as JSON: {error}. Download it again.") from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{path} holds a {type(content).__name__}, not an object. Download it again.")
    return content


def _check_architecture(checkpoint: Checkpoint) -> None:
    config = checkpoint.config
    found = config.get("model_type")
    if found not in MODEL_TYPES:
        raise ModelLoadError(
            f"{checkpoint.name} is a {found!r} model; a GRIT model is a decoder that embeds and generates, of type "
            f"{', '.join(MODEL_TYPES)}. Encoder-only models cannot generate: use GritLM/GritLM-7B or grit-mini."
        )
    architectures = config.get("architectures") or []
    if not any(str(name).endswith("ForCausalLM") for name in architectures):
        raise ModelLoadError(
            f"{checkpoint.name} holds {architectures}, which has no language-model head; wanted ...ForCausalLM. "
            "Use the checkpoint of the whole model, not only of its embedding part."
        )
    for key in ("hidden_size", "vocab_size", "max_position_embeddings"):
        if not isinstance(config.get(key), int):
            raise ModelLoadError(f"{checkpoint.name}: config.json has no whole number {key}. Download it again.")


def _complete_shards(directory: Path, name: str) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    if index.exists():
        files = sorted(set(_read_json(index).get("weight_map", {}).values()))
        shards = [directory / file for file in files]
    else:
        shards = sorted(directory.glob("model.safetensors"))
    missing = [shard.name for shard in shards if not shard.exists()]
    if missing:
        raise ModelLoadError(f"{name}: {', '.join(missing)} of {len(shards)} shards missing. Download them again.")
    if not shards:
        raise ModelLoadError(_no_safetensors(directory, name))
    for shard in shards:
        _check_extent(shard)
    return shards


def _no_safetensors(directory: Path, name: str) -> str:
    pickled = sorted(p.name for p in directory.iterdir() if p.suffix in (".bin", ".pt", ".pth"))
    if not pickled:
        return f"{name} has no model.safetensors and no index of shards. Download the whole checkpoint."
    return (
        f"{name} has only pickled weights ({', '.join(pickled[:3])}), which can run code when opened and are refused. "
        "Use a revision with safetensors, or convert them where you trust them: "
        "AutoModelForCausalLM.from_pretrained(dir, weights_only=True).save_pretrained(out)."
    )


def _shard_header(shard: Path) -> tuple[dict[str, Any], int]:
    """Return a safetensors file's tensor table and the offset of its data."""
    size = shard.stat().st_size
    with shard.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length + 8 > size:
            raise ModelLoadError(f"{shard} is truncated ({size:,} bytes, header incomplete). Download it again.")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise ModelLoadError(f"{shard} is no safetensors file ({error}). Download it again.") from error
    header.pop("__metadata__", None)
    return header, 8 + length


def _check_extent(shard: Path) -> None:
    header, start = _shard_header(shard)
    wanted = start + max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    found = shard.stat().st_size
    if found != wanted:
        raise ModelLoadError(f"{shard} is truncated or altered: {found:,} bytes, {wanted:,} wanted. Download it again.")


def _hash_shard(shard: Path, digest: Any) -> None:
    header, start = _shard_header(shard)
    digest.update(json.dumps(header, sort_keys=True).encode())
    with shard.open("rb") as file:
        for tensor in sorted(header.values(), key=lambda tensor: tensor["data_offsets"]):
            begin, end = (start + offset for offset in tensor["data_offsets"])
            for at in (begin, max(begin, end - _SAMPLE)):
                file.seek(at)
                digest.update(file.read(min(_SAMPLE, end - at)))


def _load_tokenizer(checkpoint: Checkpoint) -> PromptTokenizer:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if not (checkpoint.directory / "tokenizer.json").exists():
        raise ModelLoadError(
            f"{checkpoint.name} has no tokenizer.json. A tokenizer built from tokenizer.model alone splits the GRIT "
            "markers differently and gives silently wrong embeddings. Take tokenizer.json from the model's repository."
        )
    try:
        hf = AutoTokenizer.from_pretrained(checkpoint.directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelLoadError(f"{checkpoint.name}: the tokenizer cannot be loaded: {error}") from error
    if not isinstance(hf, PreTrainedTokenizerFast):
        raise ModelLoadError(f"{checkpoint.name}: {type(hf).__name__} is no fast tokenizer. Add a tokenizer.json.")
    tokenizer = PromptTokenizer(hf)
    _check_vocabulary(checkpoint, len(hf))
    golden = checkpoint.grit_config.get("golden") or (MISTRAL_GOLDEN if _is_mistral_vocabulary(checkpoint) else None)
    if golden:
        check_golden(tokenizer, golden)
    else:
        check_boundaries(tokenizer)
    return tokenizer


def _check_vocabulary(checkpoint: Checkpoint, found: int) -> None:
    wanted = int(checkpoint.config["vocab_size"])
    if found > wanted:
        raise ModelLoadError(
            f"{checkpoint.name}: the tokenizer has {found:,} tokens, the model embeds {wanted:,}. They do not belong "
            "together: use the model's own tokenizer."
        )


def _is_mistral_vocabulary(checkpoint: Checkpoint) -> bool:
    """Mistral and Mixtral checkpoints with 32,000 tokens were trained on the Mistral-7B-v0.1 vocabulary."""
    return checkpoint.config["model_type"] in ("mistral", "mixtral") and checkpoint.config["vocab_size"] == 32000
