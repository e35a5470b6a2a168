"""The module that is trained: a causal LM in both of its uses, with its optional projection head."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from grit_integrations.engine.encoder import bidirectional_view, pool
from grit_integrations.evaluation.labelled_texts import IGNORED, TextBatch
from grit_integrations.training.attention_masks import bidirectional_then_causal, causal_then_bidirectional
from grit_integrations.training.config import ModelConfig
from grit_integrations.training.rows.batches import EmbeddingInputs
from grit_integrations.training.rows.dense_prompts import DenseBatch

_T = TypeVar("_T")


class GritModule(nn.Module):
    """A causal LM that embeds and generates, in the attention patterns, pooling and precision of a recipe.

    Args:
        lm: a transformers causal LM: `lm.model` is the decoder, `lm.lm_head` the head.
        settings: attention, pooling, and the length of the projection.
        dtype: of the matrix products; weights stay as they are.
    """

    def __init__(self, lm: Any, settings: ModelConfig, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.lm = lm
        self.projection: nn.Linear | None = None
        if settings.projection is not None:
            self.projection = nn.Linear(lm.config.hidden_size, settings.projection)
        self.settings = settings
        self._pooled = lm.config.hidden_size - 1 - settings.workspace if settings.workspace else 0
        self.dtype = dtype
        self._view = (bidirectional_view(lm.model),)  # in a tuple: its parameters are the decoder's

    def forward(self, work: Callable[[GritModule], _T]) -> _T:
        """Return `work(self)`.

        This is the one door to the parameters: wrappers for several processes (DDP, FSDP) watch it.
        """
        return work(self)

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        device: torch.device = self.lm.device
        return device

    @property
    def head_weight(self) -> Tensor:
        """The language-model head, (vocabulary, hidden)."""
        weight: Tensor = self.lm.lm_head.weight
        return weight

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context in which matrix products have the recipe's precision."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def vectors(self, inputs: EmbeddingInputs) -> Tensor:
        """Return the pooled states of embedding prompts, (rows, dim) float32, not yet of unit length."""
        with self.autocast():
            hidden = self._embedding_states(inputs)
            if self.projection is not None:
                hidden = self.projection(hidden)
        return pool(hidden, inputs.attended, inputs.sample, self.settings.pooling)

    def _embedding_states(self, inputs: EmbeddingInputs) -> Tensor:
        decoder, mask = self.lm.model, inputs.attended
        if self.settings.attention.startswith("bb"):
            decoder = self._view[0]
        elif self.settings.attention.startswith("cb"):
            mask = causal_then_bidirectional(mask, (inputs.attended - inputs.sample).sum(dim=1))
        states: Tensor = decoder(input_ids=inputs.ids, attention_mask=mask, use_cache=False).last_hidden_state
        return states

    def prompt_states(self, prompts: DenseBatch) -> tuple[Tensor, Tensor]:
        """Return the states of dense prompts, and what goes into the last layer; call it inside `autocast`.

        Both are (rows, tokens, hidden).
        """
        output = self.lm.model(
            **self._generative_inputs(prompts.ids),
            position_ids=prompts.positions,
            attention_mask=prompts.seen,
            use_cache=False,
            output_hidden_states=True,
        )
        return output.last_hidden_state, output.hidden_states[-2]

    def text_states(self, batch: TextBatch) -> Tensor:
        """Return the states that predict a text's tokens, (rows, tokens, hidden); call it inside `autocast`."""
        mask = batch.attended
        if self.settings.attention.endswith("bc"):
            labelled = batch.labels != IGNORED
            prompt = torch.where(labelled.any(dim=1), labelled.int().argmax(dim=1), mask.sum(dim=1))
            mask = bidirectional_then_causal(mask, prompt)
        inputs = self._generative_inputs(batch.ids)
        states: Tensor = self.lm.model(**inputs, attention_mask=mask, use_cache=False).last_hidden_state
        return states

    def _generative_inputs(self, ids: Tensor) -> dict[str, Tensor]:
        """Return what goes into the decoder where text is predicted.

        With a workspace, the coordinates that the pooled vector is made of are constants there: next-token features
        written into them cost retrieval (nDCG@10 .82 to .78 in 1,000 steps of grit-mini).
        """
        if not self._pooled:
            return {"input_ids": ids}
        states = self.lm.model.embed_tokens(ids)
        return {"inputs_embeds": torch.cat([states[..., : self._pooled].detach(), states[..., self._pooled :]], dim=-1)}
