"""What a run watches while it trains: retrieval and the loss on held-out responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from grit_integrations.evaluation.json_lines import read_rows
from grit_integrations.evaluation.labelled_texts import PromptEncoder
from grit_integrations.evaluation.nats import response_nats
from grit_integrations.evaluation.ranks import rank_scores
from grit_integrations.evaluation.retrieval_sets import RetrievalSet, evaluation_files, load_retrieval
from grit_integrations.evaluation.row_kinds import parse_text
from grit_integrations.training.config import TrainConfig
from grit_integrations.training.module import GritModule
from grit_integrations.training.rows.batches import embedding_inputs

BATCH_TOKENS = 16_000
LONGEST = 2_000  # tokens of an embedded text, if the window has them
CHARACTERS_PER_TOKEN = 3  # a guess that only shapes batches


class Monitor:
    """The held-out sets of a recipe, read once and measured again and again."""

    def __init__(self, config: TrainConfig, encoder: PromptEncoder) -> None:
        folder = Path(config.data.data)
        self._encoder = encoder
        self._text_tokens = config.data.text_tokens
        self._sets = [
            load_retrieval(path, queries=config.evaluate_queries, passages=config.evaluate_passages)
            for path in evaluation_files(folder / config.data.retrieval, config.evaluate_sets)
        ]
        files = evaluation_files(folder / config.data.generation, config.evaluate_responses)
        self._texts = [text for path in files for text in list(read_rows(path, parse_text))[: config.evaluate_rows]]

    @torch.no_grad()
    def measure(self, module: GritModule) -> dict[str, Any]:
        """Return mean retrieval scores over the sets, each set's own, and the mean loss on held-out responses.

        Data without evaluation sets gives neither.
        """
        training = module.training
        module.eval()
        found = {each.name: self._retrieval(module, each) for each in self._sets}
        record: dict[str, Any] = {"sets": found}
        for key in ("ndcg_10", "recall_1") if found else ():
            record[key] = sum(scores[key] for scores in found.values()) / len(found)
        if self._texts:
            record["nats"] = response_nats(
                module.lm, self._encoder, self._texts, longest=self._text_tokens, autocast=module.autocast
            )
        module.train(training)
        return record

    def _retrieval(self, module: GritModule, found: RetrievalSet) -> dict[str, float]:
        queries = self._embed(module, found.queries, instruction=found.instruction)
        similarity = queries @ self._embed(module, found.passages, instruction="").T
        scores = asdict(rank_scores(similarity.numpy(), found.gold))
        return {name: round(value, 4) for name, value in scores.items()}

    def _embed(self, module: GritModule, texts: Sequence[str], *, instruction: str) -> Tensor:
        """Return unit vectors as the module's recipe makes them, (texts, dim) on the CPU."""
        longest = min(LONGEST, module.lm.config.max_position_embeddings // 2)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        vectors: dict[int, Tensor] = {}
        for part in _by_tokens([len(texts[index]) // CHARACTERS_PER_TOKEN + 1 for index in order]):
            chosen = order[part]
            inputs = embedding_inputs(
                self._encoder, [texts[index] for index in chosen], instruction=instruction, longest=longest
            )
            pooled = functional.normalize(module.vectors(inputs.to(module.device)), dim=-1).cpu()
            vectors.update(zip(chosen, pooled, strict=True))
        return torch.stack([vectors[index] for index in range(len(texts))])


def _by_tokens(tokens: Sequence[int]) -> list[slice]:
    """Return slices of ascending lengths whose padded tokens stay within `BATCH_TOKENS`."""
    cuts = [0]
    for index, longest in enumerate(tokens):
        rows = index - cuts[-1]
        if rows and (rows + 1) * longest > BATCH_TOKENS:
            cuts.append(index)
    return [slice(start, end) for start, end in zip(cuts, [*cuts[1:], len(tokens)], strict=True)]
