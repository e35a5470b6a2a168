"""Which of the tricks a recipe asks for, and when they are played."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from grit_integrations.evaluation.labelled_texts import PromptEncoder
from grit_integrations.prompts.formats import USER, Segment, Special
from grit_integrations.reranking.wording import verdict_ids
from grit_integrations.training.config import TrainConfig
from grit_integrations.training.rows.stream_files import StreamFiles
from grit_integrations.training.start.from_nothing import bag_of_words, judge, reader, workspace
from grit_integrations.training.start.start import Start


class StartFromNothing(Start):
    """A bag of words in silent layers, which `wake` may make readers and judges; or weights that began as one.

    Args:
        config: the recipe.
        encoder: of the model's tokenizer.
        files: whose texts the bag's weights are counted on.
    """

    def __init__(self, config: TrainConfig, encoder: PromptEncoder, files: StreamFiles) -> None:
        super().__init__(config, encoder)
        self._files = files

    def causal_lm(self) -> Any:
        """Return the bag, or a checkpoint whose workspace is as wide as in training again."""
        lm, settings = super().causal_lm(), self.config.model
        if not settings.is_new:
            workspace.unfold_workspace(lm, settings.workspace)
            self._hold(lm)
            self._start_judging(lm)
        elif settings.start != "random":
            codes = bag_of_words.token_codes(self.encoder.tokenizer)
            weights = bag_of_words.token_weights(
                self.encoder.texts(self._files.documents(bag_of_words.IDF_DOCUMENTS)), codes
            )
            bag_of_words.start_as_bag(lm, weights, codes, seed=self.config.seed, workspace=settings.workspace)
            if settings.workspace:
                self._hold(lm)
        return lm

    def wake(self, lm: Any) -> None:
        """Give silent layers their start, once the embedding table that they read is trained."""
        if self.config.model.start == "reader" and self.config.model.is_new:
            codes = bag_of_words.token_codes(self.encoder.tokenizer)
            reader.start_as_reader(lm, codes, workspace_scale=workspace.WORKSPACE_SCALE, seed=self.config.seed)
            self._start_judging(lm)

    def exported(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors whose pooled vectors see less of the workspace."""
        size = self.config.model.workspace
        return workspace.fold_workspace(tensors, size) if size else dict(tensors)

    def _hold(self, lm: Any) -> None:
        shared = reader.IDENTITY if self.config.model.start == "reader" else 0
        workspace.hold_workspace(lm, self.config.model.workspace, shared=shared)

    def _start_judging(self, lm: Any) -> None:
        if self.config.reranking is not None and self.config.reranking.start:
            yes, no = verdict_ids(self.encoder.prompts)
            begin, user, *_ = self.encoder.parts([Special.BOS, Segment(USER)])
            judge.start_as_judge(lm, begin=begin, user=user, yes=yes, no=no, seed=self.config.seed)
