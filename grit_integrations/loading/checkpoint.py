"""What a checkpoint directory must be to be accepted, checked from its small files before any weight is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grit_integrations.errors import GritError, ModelLoadError
from grit_integrations.loading.adapters import CONFIG as ADAPTER_CONFIG
from grit_integrations.loading.adapters import WEIGHTS as ADAPTER_WEIGHTS
from grit_integrations.loading.adapters import Adapter
from grit_integrations.loading.configs import (
    check_architecture,
    check_layers,
    check_sizes,
    end_ids_of,
    window_of,
)
from grit_integrations.loading.digests import file_digest, signature
from grit_integrations.loading.grit_config import GRIT_CONFIG, GritConfig
from grit_integrations.loading.shards import check_regular, find_shards, read_json, tensors_of
from grit_integrations.prompts.golden import MISTRAL_GOLDEN, check_boundaries, check_golden, check_template
from grit_integrations.prompts.prompt_format import Markers
from grit_integrations.prompts.tokenizer import PromptTokenizer
from grit_integrations.prompts.turns import template_turns

if TYPE_CHECKING:
    from grit_integrations.loading.shards import TensorEntry

_ADAPTER = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)  # in a whole checkpoint's folder, which transformers loads by itself


@dataclass(frozen=True)
class Checkpoint:
    """A directory in the Hugging Face layout that holds a GRIT model: config, safetensors weights, fast tokenizer."""

    directory: Path
    name: str
    identity: str  # what changes when its files are written anew
    adapter: Adapter | None = None  # merged into the weights when they are loaded, or active for embedding alone
    origins: tuple[Path, ...] = ()  # what else it was made of: a GGUF file, the folder of an adapter

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The contents of config.json."""
        config = read_json(self.directory / "config.json")
        check_sizes(config, self.name)
        return config

    @cached_property
    def grit_config(self) -> GritConfig:
        """What grit_config.json says, which this package's trainer writes; the defaults for other models.

        With an adapter it is that of its folder: what was trained is what it says something about.
        """
        return GritConfig.of(self._grit_table, self.name)

    @property
    def embedding_adapter(self) -> Adapter | None:
        """The adapter that is active for embedding alone.

        Raises:
            ModelLoadError: it is not there, or where transformers would load it into the whole model.
        """
        named = self.grit_config.embedding_adapter
        if not named:
            return None
        folder = self._home / named
        if folder == self.directory or not (folder / ADAPTER_CONFIG).exists():
            raise ModelLoadError(
                f"{self.name}: grit_config.json has embedding_adapter={named!r}, and {folder} is no folder of an "
                f"adapter alone, with its {ADAPTER_CONFIG}. Put a LoRA in PEFT's format there."
            )
        return Adapter(folder)

    @property
    def merged_adapter(self) -> Adapter | None:
        """The adapter that is merged into the weights when they are loaded."""
        return None if self.adapter == self.embedding_adapter else self.adapter

    @property
    def _home(self) -> Path:
        """The folder of grit_config.json."""
        return self.directory if self.adapter is None else self.adapter.directory

    @cached_property
    def _grit_table(self) -> Mapping[str, Any]:
        path = self._home / GRIT_CONFIG
        return read_json(path) if path.exists() else {}

    @cached_property
    def end_ids(self) -> Sequence[int]:
        """The tokens that generation_config.json lets a text end with, beside the tokenizer's own."""
        path, vocabulary = self.directory / "generation_config.json", int(self.config["vocab_size"])
        end_ids_of(self.config, vocabulary, f"{self.name}: config.json")
        return end_ids_of(read_json(path) if path.exists() else {}, vocabulary, f"{self.name}: {path.name}")

    @property
    def dtype(self) -> str:
        """Precision of the stored weights, such as `"bfloat16"`."""
        return str(self.config.get("dtype") or self.config.get("torch_dtype") or "float32")

    @property
    def window(self) -> int:
        """The most tokens that prompt and answer may have together."""
        return window_of(self.config)

    @cached_property
    def tokenizer(self) -> PromptTokenizer:
        """The prompt tokenizer, checked against the ids that the model was trained with."""
        return _load_tokenizer(self)

    @cached_property
    def shards(self) -> Sequence[Path]:
        """The safetensors files, all of them there."""
        return find_shards(self.directory, self.name)

    @cached_property
    def tensors(self) -> Mapping[str, TensorEntry]:
        """The tensors of all shards, each shard checked to be whole; no weight is read."""
        return {name: entry for shard in self.shards for name, entry in tensors_of(shard).items()}

    @cached_property
    def fingerprint(self) -> str:
        """A digest of everything that decides vectors and answers: every byte of the weights, config, tokenizer.

        An adapter in the folder, which transformers loads by itself, is part of it.

        Raises:
            ModelLoadError: the files have changed since the checkpoint was opened.
        """
        digest, _ = hashlib.blake2b(digest_size=16), self.tensors  # which are whole, or refused
        ignored = {"_name_or_path", "auto_map", "transformers_version"}
        config = {key: value for key, value in self.config.items() if key not in ignored}
        digest.update(json.dumps([config, self._grit_table, list(self.end_ids)], sort_keys=True).encode())
        digest.update(self.tokenizer.digest().encode())
        adapter = [path for name in _ADAPTER if (path := self.directory / name).exists()]
        for file in (*self.shards, *adapter):
            digest.update(f"{file.name} {file_digest(check_regular(file))}".encode())
        for own in (self.merged_adapter, self.embedding_adapter):
            if own is not None:
                digest.update(own.digest().encode())
        self.check_unchanged()
        return digest.hexdigest()

    @property
    def changed(self) -> bool:
        """Whether the files were written anew since the checkpoint was opened; what is gone has not changed."""
        return self.directory.is_dir() and identity_of(self.directory, *self.origins) != self.identity

    def check_unchanged(self) -> None:
        """Refuse to mix two states of a checkpoint.

        Raises:
            ModelLoadError: the files have changed since it was opened.
        """
        if self.changed:
            raise ModelLoadError(
                f"{self.name} was written anew while it was being opened. Load it again when that has ended."
            )

    def check(self) -> None:
        """Refuse a checkpoint that cannot be used, without reading its weights.

        Raises:
            ModelLoadError: with what was found, what is needed, and the cure.
        """
        check_architecture(self.config, self.name)
        check_layers(self.config, self.tensors, self.name)
        for own in (self.merged_adapter, self.embedding_adapter):
            if own is not None:
                own.check(self.tensors, self.name)
        if self.embedding_adapter is not None:
            self.embedding_adapter.check_layers(self.name)
        _ = self.grit_config, self.end_ids, self.tokenizer
        adapter = self.directory / _ADAPTER[0]
        if adapter.exists() and not (self.directory / _ADAPTER[1]).exists():
            raise ModelLoadError(
                f"{self.name} has an {_ADAPTER[0]} and no {_ADAPTER[1]} beside it. Put it there, or remove the config."
            )


def identity_of(directory: Path, *origins: Path) -> str:
    """Return a string that changes when a checkpoint, or what else it was made of, is written anew in the same place.

    Raises:
        ModelLoadError: its files cannot be looked at.
    """
    try:
        return "".join(
            f"{place}{[(file.name, signature(file)) for file in _files(place)]}" for place in (directory, *origins)
        )
    except OSError as error:
        raise ModelLoadError(f"{directory} cannot be read: {error}.") from error


def _files(place: Path) -> list[Path]:
    """Return what decides a model in a folder; of a file itself."""
    return sorted([*place.glob("*.safetensors"), *place.glob("*.json")]) if place.is_dir() else [place]


def _load_tokenizer(checkpoint: Checkpoint) -> PromptTokenizer:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if not (checkpoint.directory / "tokenizer.json").exists():
        raise ModelLoadError(
            f"{checkpoint.name} has no tokenizer.json. A tokenizer built from tokenizer.model alone splits the GRIT "
            "markers differently and gives silently wrong embeddings. Take tokenizer.json from the model's repository."
        )
    check_regular(checkpoint.directory / "tokenizer.json")
    try:
        hf = AutoTokenizer.from_pretrained(checkpoint.directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelLoadError(f"{checkpoint.name}: the tokenizer cannot be loaded: {error}") from error
    if not isinstance(hf, PreTrainedTokenizerFast):
        raise ModelLoadError(f"{checkpoint.name}: {type(hf).__name__} is no fast tokenizer. Add a tokenizer.json.")
    about = checkpoint.grit_config
    try:
        templated = about.turns == "chat_template"
        prompts = replace(about.prompts, turns=template_turns(hf)) if templated else about.prompts
        tokenizer = PromptTokenizer(hf, prompts)
    except GritError:
        raise
    except Exception as error:  # whatever a damaged vocabulary makes of itself
        raise ModelLoadError(f"{checkpoint.name}: the tokenizer cannot be used: {error}") from error
    _check_vocabulary(checkpoint, len(hf))
    _check_words(checkpoint, tokenizer)
    known = MISTRAL_GOLDEN if _is_mistral_vocabulary(checkpoint) and prompts.markers == Markers() else None
    golden = about.golden or known
    if golden:
        check_golden(tokenizer, golden)
    else:
        check_boundaries(tokenizer)
    if templated:
        check_template(tokenizer)
    return tokenizer


def _check_vocabulary(checkpoint: Checkpoint, found: int) -> None:
    wanted = int(checkpoint.config["vocab_size"])
    if found > wanted:
        raise ModelLoadError(
            f"{checkpoint.name}: the tokenizer has {found:,} tokens, the model embeds {wanted:,}. They do not belong "
            "together: use the model's own tokenizer."
        )


def _check_words(checkpoint: Checkpoint, tokenizer: PromptTokenizer) -> None:
    """Refuse a checkpoint's own words for verdicts that are no tokens."""
    words = checkpoint._grit_table.get("reranking_words", ())
    for word, ids in zip(words, tokenizer.encode_texts(words), strict=True):
        if len(ids) != 1:
            raise ModelLoadError(
                f"{checkpoint.name}: grit_config.json has reranking_words={words!r}; the tokenizer spells {word!r} "
                f"with {len(ids)} tokens, and a verdict is one. Name words of one token, with their space if they "
                "have one."
            )


def _is_mistral_vocabulary(checkpoint: Checkpoint) -> bool:
    """Mistral and Mixtral checkpoints with 32,000 tokens were trained on the Mistral-7B-v0.1 vocabulary."""
    return checkpoint.config["model_type"] in ("mistral", "mixtral") and checkpoint.config["vocab_size"] == 32000
