"""Checkpoints: written whole or not at all, and read back to the bit."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from grit_integrations.errors import ConfigError, DataError
from grit_integrations.training.config import TrainConfig
from grit_integrations.training.export import PROJECTION
from grit_integrations.training.lora import is_adapter
from grit_integrations.training.module import GritModule
from grit_integrations.training.rows.row_files import FileContent
from grit_integrations.training.rows.stream import Position

MODEL = "model.safetensors"


@dataclass
class RunProgress:
    """What a checkpoint keeps besides tensors."""

    step: int = 0
    seconds: float = 0.0  # of training, without evaluation
    best: dict[str, Any] = field(default_factory=dict)  # the evaluation of the weights to export
    peak: float = 0.0  # the highest mean nDCG@10 of any evaluation
    first: dict[str, Any] = field(default_factory=dict)  # the evaluation before step 1
    positions: dict[str, Position] = field(default_factory=dict)  # of the objectives' rows, by name


@dataclass(frozen=True, slots=True)
class Identity:
    """What must not change between a checkpoint and its continuation."""

    recipe: dict[str, Any]
    files: dict[str, dict[str, Any]]


def identity(config: TrainConfig, contents: Mapping[str, FileContent], processes: int) -> Identity:
    """Return what a checkpoint of this run is compared by."""
    whole = json.loads(json.dumps(asdict(config)))
    kept = ("model", "lora", "seed", "accumulate", "bag_steps", "bag_tokens")
    sizes = ("embedding_tokens", "embedding_pairs", "generative_tokens")
    data = {key: value for key, value in whole["data"].items() if key != "data"}
    recipe = {**{key: whole[key] for key in (*kept, *sizes)}, "data": data, "processes": processes}
    return Identity(recipe, {name: asdict(content) for name, content in sorted(contents.items())})


def newest_checkpoint(output: Path) -> Path | None:
    """Return the newest complete checkpoint of a run."""
    found = sorted((output / "checkpoints").glob("step-*"))
    return found[-1] if found else None


def save_checkpoint(
    config: TrainConfig, tensors: dict[str, Tensor], optimiser: dict[str, Any], progress: RunProgress, same: Identity
) -> None:
    """Write a checkpoint under a temporary name, rename it, then remove the oldest ones.

    Raises:
        OSError: the disk is full or cannot be written; the checkpoints before this one stay as they were.
    """
    folder = Path(config.output) / "checkpoints"
    final, temporary = folder / f"step-{progress.step:08d}", folder / f".writing-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        _write(temporary, tensors, optimiser, progress, same)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    except (OSError, SafetensorError, RuntimeError) as error:  # a full disk is each of them, by who writes
        shutil.rmtree(temporary, ignore_errors=True)
        last = newest_checkpoint(Path(config.output))
        raise OSError(
            f"The checkpoint of step {progress.step} could not be written to {folder}: {error}. Make room there; the "
            f"same command then goes on from {last.name if last else 'the beginning'}."
        ) from error
    for old in sorted(folder.glob("step-*"))[: -config.keep_checkpoints]:
        shutil.rmtree(old)


def _write(
    folder: Path, tensors: dict[str, Tensor], optimiser: dict[str, Any], progress: RunProgress, same: Identity
) -> None:
    save_file(tensors, folder / MODEL)
    torch.save(optimiser, folder / "optimiser.pt")
    save_file(_random_states(), folder / "rng.safetensors")
    state = {**asdict(same), "progress": asdict(progress)}
    (folder / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")


def read_progress(checkpoint: Path, same: Identity) -> RunProgress:
    """Return where a checkpoint left a run.

    Raises:
        ConfigError: it was made with a recipe that differs where it matters.
        DataError: a file of rows has changed since; names it.
    """
    state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    changed = [key for key, value in same.recipe.items() if state["recipe"].get(key) != value]
    if changed:
        raise ConfigError(
            f"{checkpoint} was made with another {', '.join(changed)}. "
            "Restore the recipe, or start over with resume=False (--fresh)."
        )
    names = sorted({*same.files, *state["files"]})
    others = [name for name in names if same.files.get(name) != state["files"].get(name)]
    if others:
        raise DataError(
            f"Since {checkpoint} was written, {', '.join(others)} changed, came or went: the rows would come in "
            "another order. Restore the data, or start over with resume=False (--fresh)."
        )
    saved = state["progress"]
    positions = {name: Position(**at) for name, at in saved.pop("positions").items()}
    return RunProgress(**saved, positions=positions)


def read_optimiser(checkpoint: Path) -> dict[str, Any]:
    """Return the optimiser's state, on the CPU."""
    state: dict[str, Any] = torch.load(checkpoint / "optimiser.pt", map_location="cpu", weights_only=True)
    return state


def restore_random(checkpoint: Path) -> None:
    """Put torch's random numbers back where a checkpoint left them."""
    states = load_file(checkpoint / "rng.safetensors")
    torch.set_rng_state(states["rng"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _random_states() -> dict[str, Tensor]:
    states = {"rng": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def trained_tensors(state: Mapping[str, Tensor], *, adapters: bool) -> dict[str, Tensor]:
    """Return what training changes of a module's state, on the CPU, under the causal LM's own names.

    With adapters that is they and the projection; otherwise everything, tied tensors once.
    """
    named = {name.removeprefix("lm."): value for name, value in state.items()}
    if adapters:
        named = {name: value for name, value in named.items() if is_adapter(name) or name.startswith(PROJECTION)}
    seen: set[tuple[int, torch.Size]] = set()
    kept: dict[str, Tensor] = {}
    for name, value in named.items():
        place = (value.data_ptr(), value.shape)
        if place not in seen:
            seen.add(place)
            kept[name] = value.detach().cpu().contiguous()
    return kept


def load_tensors(checkpoint: Path, module: GritModule, *, adapters: bool) -> None:
    """Put a checkpoint's tensors into a module.

    Raises:
        ConfigError: it holds other tensors than the module.
    """
    found, wanted = load_file(checkpoint / MODEL), trained_tensors(module.state_dict(), adapters=adapters)
    if found.keys() != wanted.keys():
        other = min(found.keys() ^ wanted.keys())
        raise ConfigError(f"{checkpoint} and the recipe's model differ in {other}. Start over with resume=False.")
    names = {name: name if name.startswith(PROJECTION) else f"lm.{name}" for name in found}
    module.load_state_dict({names[name]: value for name, value in found.items()}, strict=False)
