"""The seam between a run and its start: weights as they come, or set by the tricks that a recipe asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from grit_integrations.evaluation.labelled_texts import PromptEncoder
from grit_integrations.training.config import TrainConfig
from grit_integrations.training.start.causal_lm import checkpoint_folder, load_model, new_model


class Start:
    """Weights as they come: a checkpoint's, or random ones.

    Args:
        config: the recipe.
        encoder: of the model's tokenizer.
    """

    def __init__(self, config: TrainConfig, encoder: PromptEncoder) -> None:
        self.config = config
        self.encoder = encoder

    def causal_lm(self) -> Any:
        """Return the causal LM before its first step, in float32."""
        if not self.config.model.is_new:
            return load_model(checkpoint_folder(self.config.model))
        return new_model(self.config.model, self.encoder.tokenizer, seed=self.config.seed)

    def wake(self, lm: Any) -> None:
        """Change `lm` in place when the recipe's `bag_steps` are over."""

    def exported(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return trained tensors as the exported model has them."""
        return dict(tensors)
