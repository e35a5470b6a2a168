"""What a run starts from: weights as they come, and tricks only where the recipe asks for them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from recipes import Trained, tiny_recipe

from grit_integrations.training.start.from_nothing.tricks import StartFromNothing
from grit_integrations.training.start.start import Start
from grit_integrations.training.trainer import Run

APART = (
    "grit_integrations.training.start.from_nothing",
    "grit_integrations.training.prepare",
    "grit_integrations.training.objectives.bag",
    "grit_integrations.training.objectives.pointers",
)
RUN = f"""
import dataclasses, sys
from pathlib import Path
from grit_integrations.training import load_config, train
config = load_config(sys.argv[1])
model = dataclasses.replace(config.model, start="random")
train(dataclasses.replace(config, model=model, output=sys.argv[2], bag_steps=0, steps=2), progress=False)
print(*(name for name in sys.modules if name.startswith({APART!r})))
"""


def test_a_run_that_asks_for_no_trick_loads_none(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    assert recipe.model.start == "bag"
    example = Path(recipe.data.data).parent / "tiny.toml"
    command = [sys.executable, "-c", RUN, str(example), str(tmp_path / "run")]
    output = subprocess.run(command, check=True, capture_output=True, text=True)
    assert output.stdout.split() == []


@pytest.mark.parametrize("start", ["random", "bag"])
def test_new_weights_start_as_the_recipe_says(tmp_path: Path, start: str) -> None:
    config = tiny_recipe(tmp_path, bag_steps=0)
    run = Run(dataclasses.replace(config, model=dataclasses.replace(config.model, start=start)))
    silent = run.model.model.layers[0].mlp.down_proj.weight.abs().max() == 0
    assert type(run.start) is (StartFromNothing if start == "bag" else Start)
    assert bool(silent) == (start == "bag")


def test_a_checkpoint_is_taken_as_it_is(trained: Trained, tmp_path: Path) -> None:
    config = tiny_recipe(tmp_path, bag_steps=0)
    model = dataclasses.replace(config.model, checkpoint=str(trained.result.model))
    assert type(Run(dataclasses.replace(config, model=model)).start) is Start
