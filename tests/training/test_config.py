"""A recipe is checked before anything is computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from grit_integrations.errors import ConfigError, GritError
from grit_integrations.training import load_config
from grit_integrations.training.config import config_from_table

EXAMPLES = Path(__file__).parents[2] / "examples" / "training"
SMALLEST = {"output": "out", "data": {"data": "rows"}}


@pytest.mark.parametrize("name", ["grit-mini.toml", "tiny.toml"])
def test_the_examples_are_valid_and_relative_to_their_folder(name: str) -> None:
    config = load_config(EXAMPLES / name)
    assert Path(config.data.data).is_relative_to(EXAMPLES)
    assert Path(config.output).resolve().is_relative_to(EXAMPLES.parents[1].resolve())


def test_what_is_left_out_has_a_default_and_whole_numbers_serve_as_floats() -> None:
    config = config_from_table({**SMALLEST, "temperature": 1, "optimiser": {"clip": 2}})
    assert config.temperature == 1.0
    assert isinstance(config.optimiser.clip, float)
    assert config.model.hidden_size == 512


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temprature": 0.1}, ["Unknown key temprature", "nearest", "temperature"]),
        ({"model": {"hiden_size": 1}}, ["model.hiden_size", "model.hidden_size"]),
        ({"steps": "many"}, ["steps", "'many'", "int"]),
        ({"steps": True}, ["steps", "bool"]),
        ({"steps": 0}, ["steps is 0", "above 0"]),
        ({"device": "tpu"}, ["device", "'tpu'", "'cuda'"]),
        ({"model": 3}, ["model", "table"]),
        ({"model": {"heads": 8, "kv_heads": 3}}, ["heads", "8", "3"]),
        ({"model": {"hidden_size": 64, "workspace": 63}}, ["model.workspace is 63", "64"]),
        ({"data": {}}, ["data.data", "missing"]),
        ({"data": {"data": "rows", "instruction_dropout": 2.0}}, ["instruction_dropout", "0..1"]),
        ({"data": {"data": "rows", "embedding_weights": {"a": "b"}}}, ["data.embedding_weights.a", "float"]),
        ({"embedding_weight": 0.0, "generative_weight": 0.0}, ["both 0"]),
    ],
)
def test_a_wrong_recipe_says_what_and_where(change: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_table({**SMALLEST, **change})
    assert isinstance(caught.value, GritError)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_file_and_a_file_that_is_not_toml_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        load_config(tmp_path / "absent.toml")
    (tmp_path / "broken.toml").write_text("steps = = 3")
    with pytest.raises(ConfigError, match=r"broken\.toml is not TOML"):
        load_config(tmp_path / "broken.toml")
