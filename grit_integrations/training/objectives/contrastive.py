"""The embedding stream: queries that should find their passages among those of the whole batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from grit_integrations.training.module import GritModule
from grit_integrations.training.objectives.losses import gather_rows, info_nce
from grit_integrations.training.objectives.objective import Loss, StreamObjective
from grit_integrations.training.rows.batches import ContrastiveBatch, EmbeddingInputs, contrastive_batch, sample_pair


class EmbeddingObjective(StreamObjective):
    """InfoNCE over the vectors of the whole model."""

    def next_batch(self) -> ContrastiveBatch:
        """Draw one positive and the hard negatives of every pair, and tokenise this process's share."""
        data, sampler, dropout = self.context.config.data, self.stream.rng("sample"), self.stream.rng("instruction")
        pairs = [sample_pair(pair, sampler, negatives=data.negatives) for pair in next(self.stream)]
        return contrastive_batch(
            self.context.encoder,
            pairs,
            query_tokens=data.query_tokens,
            passage_tokens=data.passage_tokens,
            instructed=self._instructed(dropout.random()),
            processes=self.context.processes,
        )

    def _instructed(self, drawn: float) -> bool:
        return drawn >= self.context.config.data.instruction_dropout

    def loss(self, module: GritModule, batch: ContrastiveBatch) -> Loss:
        """Return InfoNCE over the queries and passages of all processes."""
        queries, passages = (self._vectors(module, side.to(module.device)) for side in (batch.queries, batch.passages))
        own = len(queries)
        gathered = torch.cat([gather_rows(passages[:own], batch.pairs), gather_rows(passages[own:], batch.negatives)])
        value = info_nce(
            gather_rows(queries, batch.pairs),
            gathered,
            batch.texts.to(module.device),
            temperature=self.context.config.temperature,
        )
        return Loss(_with_gradient_times(value, len(batch.pairs)))

    def _vectors(self, module: GritModule, inputs: EmbeddingInputs) -> Tensor:
        return in_chunks(module.vectors, inputs, self.context.config.embedding_chunk)


def in_chunks(vectors: Callable[[EmbeddingInputs], Tensor], inputs: EmbeddingInputs, rows: int | None) -> Tensor:
    """Return `vectors(inputs)`, keeping the activations of at most `rows` rows at a time; the gradients are the same.

    This is GradCache (Gao et al. 2021, arXiv 2101.06983) by way of activation checkpointing: the first pass keeps the
    vectors alone, and the backward pass of the loss computes one chunk after the other again, with the same random
    numbers. It costs one more forward pass.
    """
    if rows is None or len(inputs.ids) <= rows:
        return vectors(inputs)
    return torch.cat([checkpoint(vectors, part, use_reentrant=False) for part in inputs.split(rows)])


def _with_gradient_times(value: Tensor, processes: int) -> Tensor:
    """Return `value` with `processes` times its gradient.

    Each process's gradient is its part of a sum, and what follows averages over processes.
    """
    return value if processes == 1 else value * processes - value.detach() * (processes - 1)
