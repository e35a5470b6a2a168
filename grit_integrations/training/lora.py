"""Low-rank adapters (peft) inside a causal LM, and how they become plain weights again."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from grit_integrations.errors import ConfigError, MissingExtraError
from grit_integrations.loading.bases import Base
from grit_integrations.training.config import LoraConfig
from grit_integrations.training.export import write_atomically
from grit_integrations.training.lora_linear import add_in_place

ADAPTER = "default"  # peft's name for the only one


def add_adapters(lm: Any, settings: LoraConfig, *, seed: int) -> None:
    """Put adapters into the linear layers of `lm`, in place; nothing else of it is trained any more.

    Raises:
        ConfigError: the model has no layers of the targets' names.
        MissingExtraError: peft is not installed.
    """
    try:
        import peft
        from peft.tuners.lora import Linear
    except ImportError as error:
        raise MissingExtraError("peft", "train") from error
    torch.manual_seed(seed)
    adapters = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        task_type="CAUSAL_LM",
    )
    try:
        lm.add_adapter(adapters)
    except ValueError as error:
        raise ConfigError(
            f"lora.targets is {list(settings.targets)}, which the model does not have: {error}"
        ) from error
    if not settings.dropout:
        for layer in lm.modules():
            if isinstance(layer, Linear):
                add_in_place(layer, ADAPTER)


def load_adapter(lm: Any, folder: Path, settings: LoraConfig) -> None:
    """Put a saved adapter's tensors into the adapters of `lm`, so that a run goes on from it.

    Raises:
        ConfigError: no adapter in peft's format there, or one of another rank, alpha or layers.
    """
    try:
        about = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        found = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(f"lora.start {folder} is no adapter in peft's format: {error}.") from error
    for name, key, value in (("rank", "r", settings.rank), ("alpha", "lora_alpha", settings.alpha)):
        if about.get(key) != value:
            raise ConfigError(f"lora.{name} is {value}, the adapter in lora.start {folder} has {about.get(key)}.")
    own = {name: value for name, value in lm.state_dict().items() if is_adapter(name)}
    tensors = {_own_name(name): value for name, value in found.items()}
    other = {name for name in own.keys() | tensors.keys() if _shape(own, name) != _shape(tensors, name)}
    if other:
        raise ConfigError(f"The adapter in lora.start {folder} and lora.targets differ in {min(other)}.")
    lm.load_state_dict(tensors, strict=False)


def _own_name(saved: str) -> str:
    """Return the name in a model of what peft saves as `base_model.model.LAYER.lora_A.weight`."""
    return saved.removeprefix("base_model.model.").replace(".weight", f".{ADAPTER}.weight")


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None


def save_adapter(lm: Any, tensors: Mapping[str, Tensor], folder: Path, base: Base | None = None) -> None:
    """Write the adapter in peft's own format, for those who hold the checkpoint that it adapts already.

    Args:
        lm: what was trained.
        tensors: its state.
        folder: where to; made if need be.
        base: what to name as the adapted checkpoint instead of the directory that it was loaded from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    marked = {f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}": value for name, value in tensors.items()}
    write_atomically(folder / "adapter_model.safetensors", {n: value for n, value in marked.items() if is_adapter(n)})
    about = copy.copy(lm.peft_config[ADAPTER])
    if base is not None:
        about.base_model_name_or_path, about.revision = base.hub, base.revision
    about.save_pretrained(folder)


def rounded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with those of adapters in bfloat16, which halves their file."""
    return {name: value.to(torch.bfloat16) if is_adapter(name) else value for name, value in tensors.items()}


def is_adapter(name: str) -> bool:
    """Tell whether a tensor of the module's state belongs to an adapter."""
    return ".lora_" in name


def merged(lm: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a stock causal LM: those of `lm` with the adapters that `tensors` holds added in."""
    from peft.tuners.lora import LoraLayer

    plain = {name.replace(".base_layer", ""): value.detach().cpu() for name, value in lm.state_dict().items()}
    for name, layer in lm.named_modules():
        if isinstance(layer, LoraLayer):
            low, high = (tensors[f"{name}.lora_{half}.{ADAPTER}.weight"].float() for half in "AB")
            plain[f"{name}.weight"] = plain[f"{name}.weight"] + layer.scaling[ADAPTER] * (high @ low)
    return {name: value for name, value in plain.items() if not is_adapter(name)}
