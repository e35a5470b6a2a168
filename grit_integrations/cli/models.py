"""Which model a command uses, and what can be said about it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from grit_integrations.cli.output import byte_size
from grit_integrations.errors import OptionError
from grit_integrations.ingest import PassageIndex
from grit_integrations.ingest.index_card import read_card
from grit_integrations.loading.sources import BUNDLED, BUNDLED_NAME
from grit_integrations.model import GritLM

if TYPE_CHECKING:
    from grit_integrations.training import TrainConfig


def load_model(name: str | None, device: str | None) -> GritLM:
    """Return the model that a command names, grit-mini if none; its weights are read when they are needed."""
    return GritLM(name or BUNDLED_NAME, device=device)


def model_for_store(store: Path, name: str | None, device: str | None) -> GritLM:
    """Return the model that a command names, else the one that made the store, else grit-mini."""
    card = None if name else read_card(store)
    return load_model(card["origin"]["model"] if card else name, device)


def open_store(store: Path, name: str | None, device: str | None) -> PassageIndex:
    """Return an existing store with its model.

    Raises:
        IngestError: there is none.
        CollectionMismatchError: another model than `name` made it.
    """
    return PassageIndex(store, model_for_store(store, name, device))


def is_bundled(grit: GritLM) -> bool:
    """Whether this is grit-mini, however it was named."""
    return grit.source == BUNDLED_NAME or Path(grit.source).resolve() == BUNDLED


def describe(grit: GritLM, store: Path) -> dict[str, str]:
    """Return what is worth knowing about a model, which it loads, and about the store, name by value."""
    about = grit.load().describe()
    lines = {
        "Model": f"{about['model']} ({about['architecture']}, {about['parameters']:,} parameters)",
        "Fingerprint": str(about["fingerprint"]),
        "Device": str(about["device"]),
        "Precision": str(about["dtype"]),
        "Window": f"{about['window']:,} tokens",
        "Embedding": f"{about['dim']} dimensions, {about['pooling']} pooling",
        "Memory": f"{byte_size(float(str(about['bytes'])))} of weights{_process_memory(str(about['device']))}",
    }
    card = read_card(store) if (store / "store.json").exists() else None
    if card:
        origin = card["origin"]
        same = origin["fingerprint"] == about["fingerprint"]
        count = PassageIndex(store, grit).count() if same else 0
        lines["Store"] = (
            f"{store}, {count:,} passages" if same else f"{store}, made by {origin['model']} (another model)"
        )
    return lines


def training_config(path: Path, device: str | None) -> TrainConfig:
    """Return a recipe with the command line's device in it.

    Raises:
        ConfigError: the recipe is wrong.
        OptionError: no such device.
    """
    from grit_integrations.training import load_config

    config = load_config(path)
    if device is None:
        return config
    if device not in ("cpu", "cuda"):
        raise OptionError(f"--device {device} is not possible for training. Use cpu or cuda.")
    return dataclasses.replace(config, device=device)  # type: ignore[arg-type]  # checked above


def _process_memory(device: str) -> str:
    """Return what the process has taken, as far as this system tells."""
    import torch

    parts = []
    try:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        parts.append(f"{byte_size(peak)} peak of the process")
    except ImportError:  # Windows has no such module
        pass
    if device.startswith("cuda"):
        parts.append(f"{byte_size(torch.cuda.memory_allocated(device))} on the GPU")
    return "".join(f", {part}" for part in parts)
