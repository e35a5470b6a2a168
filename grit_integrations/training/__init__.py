"""The GRIT recipe: one model trained to embed and to answer. Needs the extra `train`."""

from __future__ import annotations

from grit_integrations.training.config import TrainConfig, load_config
from grit_integrations.training.trainer import TrainResult, train

__all__ = ["TrainConfig", "TrainResult", "load_config", "train"]
