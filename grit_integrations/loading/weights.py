"""Load a checkpoint's weights and tokenizer once per process, and say what a checkpoint must be to be accepted."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grit_integrations.errors import ModelLoadError
from grit_integrations.loading.configs import SLIDING_TYPES
from grit_integrations.loading.digests import signature
from grit_integrations.loading.shards import check_regular

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

    from grit_integrations.loading.checkpoint import Checkpoint

logger = logging.getLogger(__name__)
_said: set[str] = set()


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a checkpoint's weights are put into memory. Two loads with equal options share them."""

    device: str | None = None
    dtype: str = "auto"
    attn_implementation: str | None = None
    quantization_config: Any = None
    device_map: Any = None
    embedding_head: Path | None = None

    def key(self) -> str:
        """Return a string that is equal for equal options."""
        device_map = json.dumps(self.device_map, sort_keys=True, default=str)
        head = None if self.embedding_head is None else _state_of(self.embedding_head)
        parts = (self.device, self.dtype, self.attn_implementation, self.quantization_key(), device_map, head)
        return "|".join(map(str, parts))

    def quantization_key(self) -> str:
        """Return a string that is equal for equal quantisations; empty for none."""
        config = self.quantization_config
        if config is None:
            return ""
        return str(config.to_json_string()) if hasattr(config, "to_json_string") else repr(config)


@dataclass(frozen=True, slots=True)
class Weights:
    """A loaded causal LM with its optional projection head, in evaluation mode."""

    lm: PreTrainedModel
    head: nn.Linear | None
    head_digest: str  # of the file that the head was read from; empty without one
    device: torch.device  # where inputs go
    dtype: torch.dtype  # compute precision
    embedding_factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    """Of the adapter that is active for embedding alone, by layer: (rank, in) and (out, rank), the scale in it."""

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return int(self.head.out_features if self.head is not None else self.lm.config.hidden_size)

    @property
    def layer_devices(self) -> list[torch.device]:
        """Where each decoder layer is, and so its part of a KV cache."""
        return [next(layer.parameters()).device for layer in self.lm.get_decoder().layers]

    def nbytes(self) -> int:
        """Return the bytes of all parameters and buffers."""
        own = (factor for factors in self.embedding_factors.values() for factor in factors)
        tensors = {t.data_ptr(): t for t in (*self.lm.parameters(), *self.lm.buffers(), *own)}
        return sum(t.numel() * t.element_size() for t in tensors.values())


def load_weights(checkpoint: Checkpoint, options: LoadOptions, *, progress: bool | None = None) -> Weights:
    """Load `checkpoint` with stock transformers classes: no remote code, safetensors only, no sliding window.

    Args:
        checkpoint: an accepted checkpoint directory.
        options: device, precision, attention kernel, quantisation.
        progress: show a bar; `None` shows it on a terminal.

    Raises:
        ModelLoadError: tensors missing or of the wrong shape, an unavailable device, an unknown dtype.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from grit_integrations.loading import attention

    _refuse_quantised_adapter(checkpoint, options)
    _settle_vector_functions()
    device = _device(options)
    dtype = _dtype(options.dtype, checkpoint.dtype, device)
    arguments: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": options.attn_implementation or attention.register(),
    }
    if options.quantization_config is not None:
        arguments["quantization_config"] = options.quantization_config
    if options.device_map is not None:
        arguments["device_map"] = options.device_map
    with _transformers_progress(progress):
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                checkpoint.directory,
                config=_full_attention_config(checkpoint),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **arguments,
            )
        except Exception as error:  # transformers raises whatever a damaged config makes of itself
            kind = type(error).__name__
            raise ModelLoadError(f"{checkpoint.name} could not be loaded ({kind}: {error}).") from error
    lm, info = loaded
    _refuse_incomplete(checkpoint, info)
    if checkpoint.merged_adapter is not None:
        checkpoint.merged_adapter.merge(lm, checkpoint.shards)
    if options.device_map is None and options.quantization_config is None:
        lm = lm.to(device)
    lm.requires_grad_(False).eval()
    head, digest = _projection_head(options.embedding_head, lm, dtype)
    factors = _embedding_factors(checkpoint, lm, dtype)
    return Weights(lm, head, digest, torch.device(lm.device), dtype, factors)


def _settle_vector_functions() -> None:
    """Call cosine and sine once on one thread.

    Their library chooses its kernels at the first call. When two threads meet in that call, as in the first rotary
    embedding of a process, one of them may compute with an error of 1e-4 (seen in 1 of 45 processes with torch 2.13):
    enough that a block which another process reads differs from one made there.
    """
    import torch

    few = torch.ones(8)  # too few for a second thread
    few.cos()
    few.sin()


def _full_attention_config(checkpoint: Checkpoint) -> PretrainedConfig:
    """Return the stock config with every layer attending to the whole window, but for models trained under another.

    GritLM's published results come from kernels that ignore `sliding_window` 4096; stock transformers would apply it
    to both directions and drop keys from caches.
    """
    from transformers import AutoConfig

    config: PretrainedConfig = AutoConfig.from_pretrained(
        checkpoint.directory, local_files_only=True, trust_remote_code=False
    )
    if config.model_type in SLIDING_TYPES and (config.sliding_window or checkpoint.window) < checkpoint.window:
        return config
    if config.model_type == "gemma3_text":  # whose layers rotate by their type
        return config
    config.sliding_window = None
    if hasattr(config, "use_sliding_window"):
        config.use_sliding_window = False
    if getattr(config, "layer_types", None):
        config.layer_types = ["full_attention"] * config.num_hidden_layers
    return config


def _refuse_incomplete(checkpoint: Checkpoint, info: Mapping[str, Any]) -> None:
    missing, mismatched = sorted(info["missing_keys"]), sorted(map(str, info.get("mismatched_keys", ())))
    if missing or mismatched:
        names = ", ".join((missing or mismatched)[:3])
        raise ModelLoadError(
            f"{checkpoint.name}: {len(missing)} tensors are missing and {len(mismatched)} have another shape than its "
            f"config says ({names}, ...). They would be random. Download the checkpoint again."
        )


def _device(options: LoadOptions) -> torch.device:
    import torch

    if options.device is None:
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(best)
    try:
        device = torch.device(options.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelLoadError(f"device={options.device!r} is not available here ({error}). Use device='cpu'.") from error
    return device


def _refuse_quantised_adapter(checkpoint: Checkpoint, options: LoadOptions) -> None:
    if checkpoint.merged_adapter is not None and options.quantization_config is not None:
        raise ModelLoadError(
            f"{checkpoint.name} has an adapter, which cannot be merged into quantised weights. Leave "
            "quantization_config out, or merge the adapter with peft and quantise the result."
        )


def _dtype(wanted: str, stored: str, device: torch.device) -> torch.dtype:
    import torch

    if wanted != "auto":
        dtype = getattr(torch, wanted.removeprefix("torch."), None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ModelLoadError(f"dtype={wanted!r} is unknown. Use 'auto', 'float32', 'bfloat16' or 'float16'.")
        return dtype
    dtype = getattr(torch, stored.removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ModelLoadError(f"config.json says dtype={stored!r}, which is no precision. Pass dtype='float32'.")
    if device.type == "cpu" and dtype != torch.float32 and not (dtype == torch.bfloat16 and native_bfloat16()):
        _say_once(f"This CPU does not compute {stored} natively: using float32, several times faster here.")
        return torch.float32
    return dtype


def native_bfloat16() -> bool:
    """Whether this machine's CPU has bfloat16 instructions; emulated, they are several times slower than float32."""
    import torch

    return any(supported for name, supported in torch.cpu.get_capabilities().items() if "bf16" in name)


def _say_once(message: str) -> None:
    if message not in _said:
        _said.add(message)
        logger.warning(message)


def head_digest(path: Path) -> str:
    """Return the digest of a projection head's file.

    Raises:
        ModelLoadError: it cannot be read.
    """
    try:
        return hashlib.blake2b(check_regular(path).read_bytes(), digest_size=16).hexdigest()
    except OSError as error:
        raise ModelLoadError(f"embedding_head={str(path)!r} cannot be read: {error}") from error


def _state_of(file: Path) -> str:
    """Name a file and its state: one that was replaced is another."""
    try:
        return f"{file.resolve()} {signature(file)}"
    except (OSError, RuntimeError):  # RuntimeError: a link to itself
        return str(file)


def _projection_head(path: Path | None, lm: PreTrainedModel, dtype: torch.dtype) -> tuple[nn.Linear | None, str]:
    """Load the reference's optional projection: `weight` (dim, hidden) and `bias` (dim) in one safetensors file.

    Returns:
        The head, and a digest of the very bytes that it was read from.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    if path is None:
        return None, ""
    if path.suffix != ".safetensors":
        raise ModelLoadError(
            f"embedding_head={str(path)!r} is not a safetensors file, and pickled files are never opened. Convert it: "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), 'embedding_head.safetensors')."
        )
    try:
        data = check_regular(path).read_bytes()
        tensors = load(data)
    except (OSError, SafetensorError) as error:
        raise ModelLoadError(f"embedding_head={str(path)!r} cannot be read: {error}") from error
    hidden = lm.config.hidden_size
    weight, bias = tensors.get("weight"), tensors.get("bias")
    if weight is None or weight.ndim != 2 or weight.shape[1] != hidden:
        shape = None if weight is None else tuple(weight.shape)
        raise ModelLoadError(f"embedding_head has a weight of shape {shape}; this model needs (dim, {hidden}).")
    head = torch.nn.Linear(hidden, weight.shape[0], bias=bias is not None, dtype=dtype)
    try:
        head.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelLoadError(f"embedding_head={str(path)!r} is no projection: {error}") from error
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    return head.to(lm.device).requires_grad_(False).eval(), digest


def _embedding_factors(
    checkpoint: Checkpoint, lm: PreTrainedModel, dtype: torch.dtype
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Load the adapter that is active for embedding alone, each layer's factors to where the layer is."""
    adapter = checkpoint.embedding_adapter
    if adapter is None:
        return {}
    places = {layer: next(lm.get_submodule(layer).parameters()).device for layer in adapter.layers}
    return {
        layer: (low.to(places[layer], dtype), high.to(places[layer], dtype)) for layer, low, high in adapter.factors()
    }


@contextmanager
def _transformers_progress(progress: bool | None) -> Iterator[None]:
    """Show transformers' loading bar as asked; by default only on a terminal."""
    import sys

    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    wanted = sys.stderr.isatty() if progress is None else progress
    _set_bar(transformers_logging, wanted)
    try:
        yield
    finally:
        _set_bar(transformers_logging, shown)


def _set_bar(transformers_logging: Any, shown: bool) -> None:
    if shown:
        transformers_logging.enable_progress_bar()
    else:
        transformers_logging.disable_progress_bar()
