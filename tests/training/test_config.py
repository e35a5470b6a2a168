"""A recipe is checked before anything is computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from grit_integrations.errors import ConfigError, GritError
from grit_integrations.training import load_config
from grit_integrations.training.config import config_from_table

EXAMPLES = Path(__file__).parents[2] / "examples" / "training"
SMALLEST = {"output": "out", "data": {"data": "rows"}}


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.toml")))
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
        ({"generative_weight": -1.0}, ["generative_weight is -1.0", "above"]),
        ({"model": {"vocab_size": 200}}, ["model.vocab_size is 200", "262"]),
        ({"model": {"head_dim": 15}}, ["model.head_dim is 15", "even"]),
        ({"model": {"context": 255}}, ["data.text_tokens", "256", "255", "model.context"]),
        ({"model": {"context": 256}, "data": {"data": "rows", "passage_tokens": 255}}, ["data.passage_tokens", "259"]),
        ({"model": {"attention": "bbbb"}}, ["model.attention", "'cccc'"]),
        ({"model": {"pooling": "max"}}, ["model.pooling", "'lasttoken'"]),
        ({"model": {"projection": 0}}, ["model.projection is 0"]),
        ({"model": {"start": "random"}, "bag_steps": 3}, ["bag_steps", "start = 'bag'"]),
        ({"model": {"checkpoint": "there"}, "bag_steps": 3}, ["bag_steps", "model.checkpoint"]),
        ({"lora": {"rank": 4}}, ["[lora]", "model.checkpoint"]),
        ({"lora": {"rank": 0}, "model": {"checkpoint": "there"}}, ["lora.rank is 0"]),
        ({"lora": {"targets": "q_proj"}, "model": {"checkpoint": "there"}}, ["lora.targets", "tuple"]),
        ({"embedding_chunk": 0}, ["embedding_chunk is 0"]),
        ({"data": {"data": "rows", "negatives": -1}}, ["data.negatives is -1"]),
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
