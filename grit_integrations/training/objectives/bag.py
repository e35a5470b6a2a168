"""The first steps of a bag of words: the embedding stream on the token embeddings alone, while the layers are silent.

For models that `start/from_nothing` sets; loaded where a recipe has `bag_steps`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from grit_integrations.training.module import GritModule
from grit_integrations.training.objectives.contrastive import EmbeddingObjective
from grit_integrations.training.rows.batches import EmbeddingInputs


class BagObjective(EmbeddingObjective):
    """InfoNCE over the token embeddings alone, without instructions."""

    def _instructed(self, drawn: float) -> bool:
        return False

    def _vectors(self, module: GritModule, inputs: EmbeddingInputs) -> Tensor:
        return bag_vectors(module.lm, inputs)


def bag_vectors(lm: Any, inputs: EmbeddingInputs) -> Tensor:
    """Return what a module's `vectors` are while the layers are silent: the mean of the normed token embeddings."""
    states = lm.model.norm(lm.model.embed_tokens.weight)  # (vocabulary, dim)
    picked, rows = inputs.ids[inputs.sample.bool()], inputs.sample.sum(dim=1)
    return nn.functional.embedding_bag(picked, states, rows.cumsum(0) - rows, mode="mean")
