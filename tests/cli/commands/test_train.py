"""`grit train`: the recipe and the command line's device reach the trainer."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import good, refusal

import grit_integrations.training
from grit_integrations.training import TrainResult


def test_train_hands_the_recipe_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fake(config: object, *, resume: bool = True, progress: bool | None = None) -> TrainResult:
        seen.append((config, resume))
        return TrainResult(steps=3, finished=resume, minutes=0.1, best={"ndcg": 0.5}, model=tmp_path / "model")

    monkeypatch.setattr(grit_integrations.training, "train", fake)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('output = "out"\n[data]\ndata = "data"\n')
    assert "Finished after step 3" in good("train", recipe)
    assert "Interrupted" in good("train", recipe, "--fresh", "--device", "cpu")
    assert [resume for _, resume in seen] == [True, False]
    assert seen[1][0].device == "cpu"
    assert "cpu or cuda" in refusal("train", recipe, "--device", "tpu")
    recipe.write_text('outptu = "out"\n')
    assert "nearest known key is output" in refusal("train", recipe)
