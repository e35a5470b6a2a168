"""What a training run is: frozen dataclasses, read from TOML with errors that name the cure."""

from __future__ import annotations

import dataclasses
import difflib
import sys
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from grit_integrations.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The decoder to start from: a checkpoint directory, or a new Mistral of these sizes."""

    checkpoint: str | None = None
    vocab_size: int = 8192
    hidden_size: int = 512
    layers: int = 3
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 64
    mlp_size: int = 1024
    context: int = 2048
    rope_theta: float = 10000.0
    start: Literal["bag", "random"] = "bag"
    workspace: int = 0  # coordinates that the layers alone write, and that the pooled vector hardly sees ("bag" only)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the rows are and how they are mixed. Paths are relative to the recipe's folder."""

    data: str
    embedding: str = "embedding"  # folder of {"query": ..., "pos": [...], "neg": [...]} files, below `data`
    generative: str = "generative"  # folder of {"text": ...} files, below `data`
    retrieval: str = "evaluation/retrieval"
    generation: str = "evaluation/generation"
    embedding_weights: dict[str, float] = field(default_factory=dict)  # file pattern -> times an epoch sees a row
    generative_weights: dict[str, float] = field(default_factory=dict)
    query_tokens: int = 64
    passage_tokens: int = 192
    text_tokens: int = 256
    instruction_dropout: float = 0.5  # share of embedding batches whose queries lose their instruction


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW with one learning rate per kind of parameter, warmup, then cosine down to `final_rate`."""

    embedding_rate: float = 4e-3
    body_rate: float = 6e-4
    head_rate: float = 3e-3
    warmup_steps: int = 50
    final_rate: float = 0.05  # of the peak
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.98
    clip: float = 1.0


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run."""

    output: str
    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # of the matrix products; weights stay float32
    threads: int | None = None
    steps: int = 1000
    minutes: float | None = None  # also end the schedule after this much training time
    bag_steps: int = 0  # first steps: contrastive only, on the token embeddings alone, the layers being silent
    bag_tokens: int = 100_000
    bag_rate: float = 0.03
    embedding_tokens: int = 12_000  # padded passage tokens per step
    embedding_pairs: int = 256  # at most, per step
    generative_tokens: int = 4_000  # padded tokens per step
    embedding_weight: float = 1.0
    generative_weight: float = 1.0
    generative_loss: Literal["mixed", "token"] = "mixed"
    temperature: float = 0.05
    evaluate_every: int = 200
    evaluate_queries: int = 100
    evaluate_passages: int = 300
    retrieval_tolerance: float = 0.005  # nDCG@10 that much below the best counts as equal: then the lower loss wins
    evaluate_sets: tuple[str, ...] = ()  # retrieval sets watched while training; all of them when empty
    checkpoint_every: int = 100
    keep_checkpoints: int = 2


def load_config(path: str | Path) -> TrainConfig:
    """Read a recipe. Relative paths in it are relative to its folder.

    Raises:
        ConfigError: no such file, not TOML, an unknown key (the nearest known one is named), a wrong type or value.
    """
    recipe = Path(path)
    try:
        table = tomllib.loads(recipe.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the recipe {recipe}: {error.strerror}. Give a TOML file.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{recipe} is not TOML: {error}.") from error
    return config_from_table(table, folder=recipe.parent)


def config_from_table(table: dict[str, Any], *, folder: Path = Path()) -> TrainConfig:
    """Build a `TrainConfig` from nested dictionaries; see `load_config`."""
    config: TrainConfig = _build(TrainConfig, table, where="")
    _check(config)
    data = dataclasses.replace(config.data, data=str(folder / config.data.data))
    model = config.model
    if model.checkpoint is not None:
        model = dataclasses.replace(model, checkpoint=str(folder / model.checkpoint))
    return dataclasses.replace(config, data=data, model=model, output=str(folder / config.output))


def _build(kind: Any, table: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    for key in table:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1, cutoff=0.0)
            raise ConfigError(f"Unknown key {where}{key}. The nearest known key is {where}{near[0]}.")
    for entry in dataclasses.fields(kind):
        required = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        if required and entry.name not in table:
            raise ConfigError(f"The key {where}{entry.name} is missing. Add it to the recipe.")
    return kind(**{key: _value(hints[key], value, f"{where}{key}") for key, value in table.items()})


def _value(hint: Any, value: Any, where: str) -> Any:  # noqa: PLR0911  # one return per kind of value
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{where} is {value!r}. It must be a table: [{where}].")
        return _build(hint, value, f"{where}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{where} is {value!r}. It must be one of {', '.join(map(repr, arguments))}.")
        return value
    if origin in (typing.Union, types.UnionType):
        return _value(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_value(arguments[0], item, where) for item in value)
    if origin is dict and isinstance(value, dict):
        return {key: _value(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    expected = origin or hint
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        raise ConfigError(f"{where} is {value!r}, a {type(value).__name__}. It must be a {expected.__name__}.")
    return value


def _check(config: TrainConfig) -> None:
    positive = {
        "steps": config.steps,
        "embedding_tokens": config.embedding_tokens,
        "generative_tokens": config.generative_tokens,
        "temperature": config.temperature,
        "evaluate_every": config.evaluate_every,
        "checkpoint_every": config.checkpoint_every,
        "keep_checkpoints": config.keep_checkpoints,
        "data.query_tokens": config.data.query_tokens,
        "data.passage_tokens": config.data.passage_tokens,
        "data.text_tokens": config.data.text_tokens,
        "model.layers": config.model.layers,
        "model.hidden_size": config.model.hidden_size,
    }
    for name, value in positive.items():
        if value <= 0:
            raise ConfigError(f"{name} is {value}. It must be above 0.")
    if config.model.heads % config.model.kv_heads:
        raise ConfigError(
            f"model.heads is {config.model.heads}, which model.kv_heads = {config.model.kv_heads} does not divide."
        )
    if not 0 <= config.model.workspace < config.model.hidden_size - 1:
        raise ConfigError(
            f"model.workspace is {config.model.workspace}. It must leave room in model.hidden_size = "
            f"{config.model.hidden_size} for the bag."
        )
    if not 0 <= config.data.instruction_dropout <= 1:
        raise ConfigError(f"data.instruction_dropout is {config.data.instruction_dropout}. It must be in 0..1.")
    if config.embedding_weight <= 0 and config.generative_weight <= 0:
        raise ConfigError("embedding_weight and generative_weight are both 0, so nothing would be trained. Raise one.")
