"""PEFT adapters: low-rank changes of a base's linear layers, checked from their small files and merged at load."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grit_integrations.errors import ModelLoadError
from grit_integrations.loading.digests import file_digest
from grit_integrations.loading.shards import check_regular, read_json, tensors_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from grit_integrations.loading.shards import TensorEntry

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_NAME = re.compile(r"(?:base_model\.model\.)?(?P<layer>.+)\.lora_(?P<half>[AB])\.weight")
# What an adapter may say that changes more than these products: key -> the values that say nothing.
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "megatron_config": (None, {}),
    "exclude_modules": (None, []),
}


def is_adapter(directory: Path) -> bool:
    """Tell whether a directory is an adapter and no whole checkpoint."""
    return (directory / CONFIG).exists() and not (directory / "config.json").exists()


@dataclass(frozen=True)
class Adapter:
    """A directory in PEFT's format that holds a LoRA."""

    directory: Path

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The contents of adapter_config.json, which says nothing that is not understood here.

        Raises:
            ModelLoadError: another kind of adapter, or a setting that changes more than two low-rank factors do.
        """
        config, path = read_json(self.directory / CONFIG), self.directory / CONFIG
        if config.get("peft_type") != "LORA":
            raise ModelLoadError(f"{path} is of type {config.get('peft_type')!r}; only 'LORA' can be merged.")
        for key, plain in _PLAIN.items():
            if config.get(key) not in plain:
                raise ModelLoadError(
                    f"{path} has {key}={config[key]!r}, which is not supported. Merge it into its base with "
                    "peft's merge_and_unload, and load the whole checkpoint."
                )
        rank, alpha = config.get("r"), config.get("lora_alpha")
        numbers = [value for value in (rank, alpha) if isinstance(value, int | float) and not isinstance(value, bool)]
        if len(numbers) < 2 or not isinstance(rank, int) or rank < 1 or not math.isfinite(numbers[1]):
            raise ModelLoadError(f"{path} has r={rank!r} and lora_alpha={alpha!r}; wanted a rank from 1 up, a number.")
        return config

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied by."""
        rank, alpha = self.config["r"], self.config["lora_alpha"]
        return float(alpha) / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    @cached_property
    def tensors(self) -> Mapping[str, TensorEntry]:
        """The tensors of the adapter's file, which is whole; none is read."""
        path = self.directory / WEIGHTS
        if not path.exists():
            raise ModelLoadError(
                f"{self.directory} has an {CONFIG} and no {WEIGHTS} beside it. Put it there; pickled adapters are "
                "never opened."
            )
        return tensors_of(check_regular(path))

    @cached_property
    def layers(self) -> Mapping[str, Mapping[str, str]]:
        """The names of both factors, `A` and `B`, by the layer that they change."""
        found: dict[str, dict[str, str]] = {}
        for name in self.tensors:
            match = _NAME.fullmatch(name)
            if match is None:
                raise ModelLoadError(f"{self.directory / WEIGHTS} has a tensor {name}, which is no factor of a LoRA.")
            found.setdefault(match["layer"], {})[match["half"]] = name
        return found

    def check(self, base: Mapping[str, TensorEntry], name: str) -> None:
        """Refuse an adapter of another model, before any weight is read.

        Args:
            base: the tensors of the base.
            name: of the base, for the message.

        Raises:
            ModelLoadError: with the first layer that does not fit, and both shapes.
        """
        rank = self.config["r"]
        for layer, factors in self.layers.items():
            low, high = (self.tensors.get(factors.get(half, "")) for half in "AB")
            weight = base.get(f"{layer}.weight")
            shapes = [() if each is None else each.shape for each in (low, high, weight)]
            fits = all(len(shape) == 2 for shape in shapes)
            if not fits or shapes != [(rank, shapes[2][1]), (shapes[2][0], rank), shapes[2]]:
                raise ModelLoadError(
                    f"The adapter {self.directory} does not belong to {name}: for {layer} it has factors of shapes "
                    f"{shapes[0]} and {shapes[1]} of rank {rank}, the base's weight has {shapes[2]}. "
                    "Give the model that it was trained on."
                )

    def check_layers(self, name: str) -> None:
        """Refuse an adapter that cannot be active for embedding alone: of layers that embedding does not read.

        Raises:
            ModelLoadError: with the first such layer.
        """
        for layer in self.layers:
            if ".layers." not in layer:
                raise ModelLoadError(
                    f"{name}: the embedding adapter {self.directory} changes {layer}, which is not read when a text "
                    "is embedded. Train it on the decoder's layers alone."
                )

    def factors(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield each layer with its factors in float32, (rank, in) and (out, rank), the scale in the second."""
        from safetensors import safe_open

        with safe_open(self.directory / WEIGHTS, framework="pt") as file:
            for layer, names in self.layers.items():
                low, high = (file.get_tensor(names[half]).float() for half in "AB")
                yield layer, low, high * self.scale

    def digest(self) -> str:
        """Return a string that changes with any byte of the adapter."""
        return " ".join(file_digest(check_regular(self.directory / file)) for file in (CONFIG, WEIGHTS))

    def merge(self, lm: PreTrainedModel, shards: Sequence[Path]) -> None:
        """Add the adapter to the weights of `lm`, in place.

        Sums are made in float32 from the base's own file and rounded once, one layer at a time.

        Raises:
            ModelLoadError: a layer that is not in memory as its own weight.
        """
        import torch

        with torch.no_grad():
            for layer, weight in self._merged(shards):
                try:
                    parameter = lm.get_parameter(f"{layer}.weight")
                except AttributeError as error:
                    raise ModelLoadError(f"{layer}, which {self.directory} changes, is no layer here.") from error
                if parameter.shape != weight.shape or parameter.is_meta:
                    raise ModelLoadError(f"{layer} is quantised or not in memory: an adapter cannot be merged into it.")
                parameter.copy_(weight)

    def _merged(self, shards: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
        """Yield each layer's new weight in float32, (out, in)."""
        from safetensors import safe_open

        with ExitStack() as stack:
            own = stack.enter_context(safe_open(self.directory / WEIGHTS, framework="pt"))
            files = [stack.enter_context(safe_open(shard, framework="pt")) for shard in shards]
            places = {name: file for file in files for name in file.keys()}  # noqa: SIM118  # no mapping
            for layer, factors in self.layers.items():
                low, high = (own.get_tensor(factors[half]).float() for half in "AB")
                weight = places[f"{layer}.weight"].get_tensor(f"{layer}.weight").float()
                yield layer, weight.addmm_(high, low, alpha=self.scale)
