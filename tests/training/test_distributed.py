"""Several processes (accelerate, gloo on the CPU) train what one process trains, and resume."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from processes import in_processes
from recipes import tiny_recipe
from safetensors.torch import load_file
from torch import distributed
from transformers import AutoModelForCausalLM

from grit_integrations.training import train
from grit_integrations.training.checkpoints import newest_checkpoint

Record = dict[str, float]
# A sum over tokens is the same however the rows are shared out; "mixed" is a mean of the processes' means.
RECIPE = {"steps": 10, "bag_steps": 3, "evaluate_every": 5, "checkpoint_every": 5, "generative_loss": "token"}


def steps(output: Path) -> list[Record]:
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{**record, "seconds": 0} for record in records if "seconds" in record]


def train_twice(process: int, output: Path) -> tuple[list[Record], list[Record]]:
    """Train to the end; then take the last checkpoint away and train that part again."""
    config = tiny_recipe(output, **RECIPE, embedding_chunk=2)
    train(config, progress=False)
    first = steps(output)
    distributed.barrier()
    if process == 0:
        shutil.rmtree(output / "checkpoints" / "step-00000010")
    distributed.barrier()
    train(config, progress=False)
    return first, steps(output)


def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    train(tiny_recipe(alone, **RECIPE), progress=False)
    found = in_processes(train_twice, 2, shared)
    assert found[0] == found[1]
    first, again = found[0]
    assert first == again  # every step once, with the same losses
    assert [record["step"] for record in first] == list(range(1, 11))
    for one, two in zip(steps(alone), first, strict=True):
        assert one == pytest.approx(two, rel=2e-3)
    checkpoints = [newest_checkpoint(output) for output in (alone, shared)]
    assert checkpoints[0] is not None
    assert checkpoints[1] is not None
    assert json.loads((checkpoints[1] / "state.json").read_text())["recipe"]["processes"] == 2
    weights = [load_file(path / "model.safetensors") for path in checkpoints if path]
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], atol=5e-3), name
    assert AutoModelForCausalLM.from_pretrained(shared / "model").config.vocab_size > 0
