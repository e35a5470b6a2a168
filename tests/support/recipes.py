"""The tiny recipe of the examples, with changes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from grit_integrations.training import TrainConfig, TrainResult, load_config

RECIPE = Path(__file__).parents[2] / "examples" / "training" / "tiny.toml"


def tiny_recipe(output: Path, **changes: object) -> TrainConfig:
    """Return the example recipe, writing to `output`."""
    return dataclasses.replace(load_config(RECIPE), output=str(output), **changes)


@dataclass(frozen=True)
class Trained:
    """A finished run of the tiny recipe."""

    config: TrainConfig
    result: TrainResult
