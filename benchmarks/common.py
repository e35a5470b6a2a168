"""What the benchmarks share: the random 230M model, the corpus' texts, versions, results as JSON and plots."""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CORPUS = ROOT / "examples" / "corpus"
sys.path.insert(0, str(ROOT / "tests" / "support"))

# Random weights of about 230M parameters: enough to measure time and memory, meaningless as a model.
SHAPE_230M = {
    "layers": 12,
    "std": 0.02,
    "hidden_size": 1024,
    "intermediate_size": 3584,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
}


def random_230m(directory: Path) -> Path:
    """Write the random 230M Mistral in GritLM-7B's hub layout, with the Mistral-7B vocabulary."""
    from checkpoints import write_checkpoint

    return Path(write_checkpoint(directory / "random-230M", **SHAPE_230M))


def environment() -> dict[str, Any]:
    """Return what a reader needs to judge a figure."""
    packages = ("torch", "transformers", "gritlm", "langchain-core", "llama-index-core", "chromadb")
    return {
        "cpu": torch.cpu.get_capabilities().get("cpu_name", platform.processor()),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def save(name: str, result: dict[str, Any]) -> Path:
    """Write a benchmark's JSON next to its plot and return the path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path
