"""The causal LM that a run starts from: a checkpoint's, or a stock Mistral with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from grit_integrations.errors import ConfigError
from grit_integrations.loading.configs import TRAINED_TYPES
from grit_integrations.loading.gguf_files import converted
from grit_integrations.loading.grit_config import GRIT_CONFIG
from grit_integrations.loading.shards import read_json
from grit_integrations.pooling import pooled_token
from grit_integrations.training.config import ModelConfig


def new_model(sizes: ModelConfig, tokenizer: PreTrainedTokenizerFast, *, seed: int) -> MistralForCausalLM:
    """Return a stock Mistral with random float32 weights."""
    config = MistralConfig(
        architectures=["MistralForCausalLM"],
        vocab_size=len(tokenizer),
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.mlp_size,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        max_position_embeddings=sizes.context,
        rope_parameters={"rope_type": "default", "rope_theta": sizes.rope_theta},
        sliding_window=None,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    model: MistralForCausalLM = MistralForCausalLM(config).float()
    return model


def checkpoint_folder(settings: ModelConfig) -> Path:
    """Return the directory of the model that a run starts from; a GGUF base is fetched and converted first.

    Raises:
        ConfigError: `checkpoint` is not a directory that holds a saved model.
        ModelLoadError: the base is neither installed nor can be fetched, or is another file.
    """
    if settings.base is not None:
        return converted(settings.base.find("the recipe's model"))
    folder = Path(settings.checkpoint or "")
    if not (folder / "config.json").is_file():
        raise ConfigError(f"model.checkpoint {folder} is not a directory with a config.json and safetensors.")
    return folder


def load_model(checkpoint: Path) -> PreTrainedModel:
    """Return the causal LM of a checkpoint directory in float32, without a sliding window.

    Raises:
        ConfigError: an architecture that is used and not trained, or prompts that training does not write.
    """
    config = AutoConfig.from_pretrained(checkpoint, local_files_only=True)
    if config.model_type not in TRAINED_TYPES:
        raise ConfigError(
            f"model.checkpoint {checkpoint} is a {config.model_type!r} model; `grit train` takes "
            f"{', '.join(TRAINED_TYPES)}. Train it with the reference code, and load the result."
        )
    _check_prompts(checkpoint)
    if hasattr(config, "sliding_window"):  # which not every architecture has
        config.sliding_window = None
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        checkpoint, config=config, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    return model


def _check_prompts(checkpoint: Path) -> None:
    """Refuse a checkpoint whose prompts are not those that training writes: GritLM's."""
    path = checkpoint / GRIT_CONFIG
    about = read_json(path) if path.exists() else {}
    other = [key for key in ("markers", "append_eos", "embedding_adapter") if about.get(key)]
    other += ["turns"] if about.get("turns", "grit") != "grit" else []
    other += ["pooling"] if pooled_token(str(about.get("pooling"))) else []
    if other:
        raise ConfigError(
            f"model.checkpoint {checkpoint} has {', '.join(other)} in its {GRIT_CONFIG}, and training writes GritLM's "
            "own prompts. Remove them to train it as a GRIT model."
        )
