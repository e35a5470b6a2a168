"""Checkpoints: written whole or not at all, and read back to the bit."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from grit_integrations.errors import ConfigError
from grit_integrations.training.config import TrainConfig
from grit_integrations.training.data import Position
from grit_integrations.training.setup import Streams

_STREAMS = ("bag", "embedding", "generative")


@dataclass
class Progress:
    """What a checkpoint keeps besides tensors."""

    step: int = 0
    seconds: float = 0.0  # of training, without evaluation
    best: dict[str, Any] = field(default_factory=dict)  # the evaluation of the weights to export
    peak: float = 0.0  # the highest mean nDCG@10 of any evaluation
    first: dict[str, Any] = field(default_factory=dict)  # the evaluation before step 1
    positions: dict[str, Position] = field(default_factory=dict)


def newest_checkpoint(output: Path) -> Path | None:
    """Return the newest complete checkpoint of a run."""
    found = sorted((output / "checkpoints").glob("step-*"))
    return found[-1] if found else None


def save_checkpoint(
    config: TrainConfig, model: Any, optimiser: torch.optim.Optimizer, streams: Streams, progress: Progress
) -> None:
    """Write a checkpoint under a temporary name, rename it, then remove the oldest ones."""
    folder = Path(config.output) / "checkpoints"
    final, temporary = folder / f"step-{progress.step:08d}", folder / f".writing-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(model_tensors(model), temporary / "model.safetensors")
    torch.save(optimiser.state_dict(), temporary / "optimiser.pt")
    save_file({"rng": torch.get_rng_state()}, temporary / "rng.safetensors")
    progress.positions = {name: getattr(streams, name).position for name in _STREAMS}
    state = {"recipe": _identity(config), "progress": asdict(progress)}
    (temporary / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for old in sorted(folder.glob("step-*"))[: -config.keep_checkpoints]:
        shutil.rmtree(old)


def load_checkpoint(
    checkpoint: Path, config: TrainConfig, model: Any, optimiser: torch.optim.Optimizer, streams: Streams
) -> Progress:
    """Put a run back where a checkpoint left it.

    Raises:
        ConfigError: the checkpoint was made with a recipe that differs where it matters.
    """
    state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    changed = [key for key, value in _identity(config).items() if state["recipe"].get(key) != value]
    if changed:
        raise ConfigError(
            f"{checkpoint} was made with another {', '.join(changed)}. "
            "Restore the recipe, or start over with resume=False."
        )
    model.load_state_dict(load_file(checkpoint / "model.safetensors"))
    optimiser.load_state_dict(torch.load(checkpoint / "optimiser.pt", map_location="cpu", weights_only=True))
    torch.set_rng_state(load_file(checkpoint / "rng.safetensors")["rng"])
    saved = state["progress"]
    positions = {name: Position(**at) for name, at in saved.pop("positions").items()}
    for name, position in positions.items():
        getattr(streams, name).seek(position)
    return Progress(**saved, positions=positions)


def model_tensors(model: Any) -> dict[str, Tensor]:
    """Return a model's state on the CPU."""
    return {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}


def write_atomically(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file under a temporary name, then rename it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, temporary, metadata={"format": "pt"})
    temporary.replace(path)


def _identity(config: TrainConfig) -> dict[str, Any]:
    """Return what must not change between a checkpoint and its continuation."""
    whole = json.loads(json.dumps(asdict(config)))
    kept = ("model", "seed", "embedding_tokens", "embedding_pairs", "generative_tokens", "bag_steps", "bag_tokens")
    data = {key: value for key, value in whole["data"].items() if key != "data"}
    return {**{key: whole[key] for key in kept}, "data": data}
