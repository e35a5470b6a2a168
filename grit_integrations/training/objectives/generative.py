"""The generative stream: texts and conversations, predicted token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grit_integrations.evaluation.labelled_texts import TextBatch, text_batch
from grit_integrations.evaluation.nats import response_loss
from grit_integrations.evaluation.row_kinds import TextRow
from grit_integrations.training.module import GritModule
from grit_integrations.training.objectives.objective import Loss, StreamObjective


@dataclass(frozen=True, slots=True)
class TextShare:
    """A process's rows of a causal batch; `weight` is their share of all rows, 1 on average over the processes."""

    batch: TextBatch
    weight: float


class GenerativeObjective(StreamObjective):
    """Cross-entropy of responses and of plain text."""

    def texts(self) -> Sequence[TextRow]:
        """Return the next batch's rows, of all processes, and move on."""
        rows: Sequence[TextRow] = next(self.stream)
        return rows

    @property
    def longest(self) -> int:
        """Tokens that a row is cut to."""
        return self.context.config.data.text_tokens

    def next_batch(self) -> TextShare:
        """Return this process's rows, tokenised."""
        texts, processes = self.texts(), self.context.processes
        own = processes.share(texts)
        batch = text_batch(self.context.encoder, own, longest=self.longest)
        return TextShare(batch, len(own) * processes.count / len(texts))

    def loss(self, module: GritModule, batch: TextShare) -> Loss:
        """Return the cross-entropy of the labelled tokens."""
        rows = batch.batch.to(module.device)
        with module.autocast():
            hidden = module.text_states(rows)
            value = response_loss(hidden, module.head_weight, rows.labels, kind=self.context.config.generative_loss)
        return Loss(value if batch.weight == 1 else value * batch.weight)
