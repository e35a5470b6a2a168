"""The tiny recipe of the examples, trained once for all tests that only look at the result."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest

from grit_integrations.training import TrainConfig, TrainResult, load_config, train

RECIPE = Path(__file__).parents[2] / "examples" / "training" / "tiny.toml"


def tiny_recipe(output: Path, **changes: object) -> TrainConfig:
    """Return the example recipe, writing to `output`."""
    return dataclasses.replace(load_config(RECIPE), output=str(output), **changes)


@dataclass(frozen=True)
class Trained:
    """A finished run of the tiny recipe."""

    config: TrainConfig
    result: TrainResult


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The tiny recipe, trained to its end."""
    config = tiny_recipe(tmp_path_factory.mktemp("tiny-run"))
    return Trained(config, train(config, progress=False))
