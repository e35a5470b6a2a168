"""The small files of a checkpoint: what they must say before any weight is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from grit_integrations.errors import ModelLoadError
from grit_integrations.loading.grit_config import are_ids

if TYPE_CHECKING:
    from grit_integrations.loading.shards import TensorEntry

TRAINED_TYPES = ("mistral", "mixtral", "llama", "qwen2", "qwen3")  # those that `grit train` takes
SLIDING_TYPES = ("phi3", "gemma3_text")  # those that were trained under their sliding windows, which are kept
MODEL_TYPES = (*TRAINED_TYPES, *SLIDING_TYPES, "granite")
_SIZES = ("hidden_size", "vocab_size", "max_position_embeddings", "num_hidden_layers", "num_attention_heads")
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def check_architecture(config: Mapping[str, Any], name: str) -> None:
    """Refuse a config that is not that of a decoder which embeds and generates.

    Raises:
        ModelLoadError: another architecture, or a size that is no size.
    """
    found = config.get("model_type")
    if found not in MODEL_TYPES:
        raise ModelLoadError(
            f"{name} is a {found!r} model; a GRIT model is a decoder that embeds and generates, of type "
            f"{', '.join(MODEL_TYPES)}. Encoder-only models cannot generate: use GritLM/GritLM-7B or grit-mini."
        )
    architectures = config.get("architectures") or []
    heads = isinstance(architectures, list) and any(str(each).endswith("ForCausalLM") for each in architectures)
    if not heads:
        raise ModelLoadError(
            f"{name} holds {architectures}, which has no language-model head; wanted ...ForCausalLM. "
            "Use the checkpoint of the whole model, not only of its embedding part."
        )
    check_sizes(config, name)


def check_sizes(config: Mapping[str, Any], name: str) -> None:
    """Refuse a config without the sizes that everything else is computed from.

    Raises:
        ModelLoadError: one is missing, or no whole number from 1 up.
    """
    optional = ("num_key_value_heads", "intermediate_size", "head_dim")
    for key in (*_SIZES, *(key for key in optional if config.get(key) is not None)):
        value = config.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelLoadError(
                f"{name}: config.json has {key}={value!r}; it must be a whole number from 1 up. Download it again."
            )


def check_layers(config: Mapping[str, Any], tensors: Mapping[str, TensorEntry], name: str) -> None:
    """Refuse weights of another depth or vocabulary than the config's, before memory is taken for it.

    Raises:
        ModelLoadError: with both numbers.
    """
    layers = {int(match[1]) for tensor in tensors if (match := _LAYER.search(tensor))}
    wanted = config["num_hidden_layers"]
    if layers != set(range(wanted)):
        raise ModelLoadError(
            f"{name}: the weights have {len(layers)} layers, config.json says {wanted}. They do not belong "
            "together: "
            "download the checkpoint again."
        )
    for tensor, entry in tensors.items():
        shape = (config["vocab_size"], config["hidden_size"])
        if tensor.endswith("embed_tokens.weight") and entry.shape != shape:
            raise ModelLoadError(
                f"{name}: {tensor} is {_shown(entry.shape)}, config.json says {_shown(shape)}. They do not belong "
                "together: download the checkpoint again."
            )


def end_ids_of(config: Mapping[str, Any], vocabulary: int, where: str) -> list[int]:
    """Return the tokens that a config lets a text end with.

    Raises:
        ModelLoadError: they are no tokens.
    """
    found = config.get("eos_token_id")
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if not are_ids(ids) or any(token >= vocabulary for token in ids):
        raise ModelLoadError(
            f"{where} has eos_token_id={found!r}; it must be token ids below {vocabulary:,}. Download it again."
        )
    return ids


def window_of(config: Mapping[str, Any]) -> int:
    """Return the most tokens that prompt and answer may have together.

    Of a model whose RoPE takes other angles for long prompts (`longrope`, as Phi's) it is the length up to which they
    stay the same: keys that were computed in a short prompt would be wrong in a longer one.
    """
    window, rope = int(config["max_position_embeddings"]), config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(rope, Mapping):
        return window
    kind = rope.get("rope_type", rope.get("type"))
    if kind not in ("longrope", "su") and not (kind == "yarn" and config["model_type"] == "phi3"):
        return window
    found = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    return min(window, found) if isinstance(found, int) and found > 0 else window


def _shown(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{size:,}" for size in shape)
