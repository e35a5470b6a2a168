"""`grit info`: what the model is, where it runs and what it takes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from grit_integrations.cli.amounts import byte_size
from grit_integrations.cli.command_group import examples
from grit_integrations.cli.command_options import DEFAULT_STORE, DebugOption, DeviceOption, ModelOption, StoreOption
from grit_integrations.cli.console import print_facts, shown_path

if TYPE_CHECKING:
    from grit_integrations.model import GritLM

EXAMPLES = examples("grit info", "grit info --model GritLM/GritLM-7B --device cuda", "grit info --store docs-store")


def info(
    *,
    store: StoreOption = DEFAULT_STORE,
    model: ModelOption = None,
    device: DeviceOption = None,
    debug: DebugOption = False,
) -> None:
    """Load the model and show what it is, where it runs and what memory it takes; and what the store holds."""
    from grit_integrations.cli.model_choice import model_for_store

    print_facts(_facts(model_for_store(store, model, device), store))


def _facts(grit: GritLM, store: Path) -> dict[str, str]:
    """Return what is worth knowing about a model, which it loads, and about the index, name by value."""
    from grit_integrations.ingest import PassageIndex
    from grit_integrations.ingest.index_card import read_card

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
            f"{shown_path(store)}, {count:,} passages"
            if same
            else f"{shown_path(store)}, made by {origin['model']} (another model)"
        )
    return lines


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
