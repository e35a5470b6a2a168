"""The GRIT recipe: one model trained to embed and to answer. Needs the extra `train`."""

from __future__ import annotations

try:
    from grit_integrations.training.config import TrainConfig, load_config
    from grit_integrations.training.trainer import TrainResult, train
except ModuleNotFoundError as error:
    if error.name != "accelerate":  # a broken install shows its true cause
        raise
    from grit_integrations.errors import MissingExtraError

    raise MissingExtraError("accelerate", "train") from error

__all__ = ["TrainConfig", "TrainResult", "load_config", "train"]
