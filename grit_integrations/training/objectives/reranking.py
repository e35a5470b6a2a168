"""The reranking stream: which of a query's passages answer it, as verdicts and as short rankings.

A verdict is trained in the orders, and under the attention patterns, that `grit_integrations.reranking` reads it in.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from grit_integrations.evaluation.labelled_texts import IGNORED, PromptEncoder
from grit_integrations.evaluation.row_kinds import Pair
from grit_integrations.options import Order
from grit_integrations.prompts.formats import Part
from grit_integrations.prompts.plan import plan_prompt
from grit_integrations.reranking.wording import ranking_parts, verdict_ids, verdict_parts
from grit_integrations.training.config import RerankingConfig
from grit_integrations.training.module import GritModule
from grit_integrations.training.objectives.objective import Context, Loss, StreamObjective
from grit_integrations.training.rows.dense_prompts import DenseBatch, DensePrompt, dense_prompt, pad_prompts
from grit_integrations.training.rows.stream import Stream


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """A query with passages, the first of which answers it."""

    query: str
    passages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RerankingBatch:
    """Prompts padded on the right; `weight` is their share of all rows, 1 on average over the processes.

    Attributes:
        prompts: of verdicts, of as many neighbouring rows as `groups` says for each query; or of rankings.
        labels: (rows, tokens); the id that a position predicts.
        asks: (rows,); the last position of each prompt.
        groups: how many verdicts each query has, its positive being the first; empty for rankings.
    """

    prompts: DenseBatch
    labels: Tensor
    asks: Tensor
    groups: tuple[int, ...]
    weight: float


class RerankingObjective(StreamObjective):
    """Cross-entropy of verdicts and rankings; and of a query's verdicts against each other.

    The second is a softmax over `yes - no` of one query's passages, with the positive as its target: what a ranking
    is made of.
    """

    def __init__(self, settings: RerankingConfig, stream: Stream[Pair], context: Context) -> None:
        super().__init__("reranking", settings.weight, stream, context, every=settings.every)
        self.settings = settings
        self.verdicts = verdict_ids(context.encoder.prompts)

    def next_batch(self) -> RerankingBatch:
        """Return this process's prompts; a batch is either of verdicts or of rankings."""
        rng, settings, processes = self.stream.rng("sample"), self.settings, self.context.processes
        ranked = rng.random() < settings.listwise
        pairs = [judged(pair, rng, passages=settings.passages) for pair in next(self.stream)]
        own = processes.share(pairs)
        weight = len(own) * processes.count / len(pairs)
        if ranked:
            return self._rankings(own, rng, weight)
        order: Order = rng.choices(list(settings.orders), list(settings.orders.values()))[0]
        return self._verdicts(own, order, weight)

    def _verdicts(self, own: Sequence[JudgedQuery], order: Order, weight: float) -> RerankingBatch:
        encoder, (yes, no) = self.context.encoder, self.verdicts
        rows: list[tuple[DensePrompt, tuple[int, ...]]] = []
        for each in own:
            for index, passage in enumerate(self._cut(each.passages)):
                query = self._cut_query(each.query)
                parts = verdict_parts(query, passage, order=order, prompts=encoder.prompts.format)
                rows.append((_row(encoder, parts, ()), (no if index else yes,)))
        return _batch(rows, encoder.pad, tuple(len(each.passages) for each in own), weight)

    def _rankings(self, own: Sequence[JudgedQuery], rng: random.Random, weight: float) -> RerankingBatch:
        encoder = self.context.encoder
        rows: list[tuple[DensePrompt, tuple[int, ...]]] = []
        for each in own:
            shown, order = shuffled(self._cut(each.passages), rng)
            answer = (*encoder.texts([order])[0], encoder.prompts.eos_id)
            parts = ranking_parts(self._cut_query(each.query), shown, turns=encoder.prompts.format.turns)
            rows.append((_row(encoder, parts, answer[:-1]), answer))
        return _batch(rows, encoder.pad, (), weight)

    def _cut(self, passages: Sequence[str]) -> list[str]:
        limit = self.context.config.data.passage_tokens
        return [self.context.encoder.prompts.first_tokens(passage, limit) for passage in passages]

    def _cut_query(self, query: str) -> str:
        return self.context.encoder.prompts.first_tokens(query, self.context.config.data.query_tokens)

    def loss(self, module: GritModule, batch: RerankingBatch) -> Loss:
        """Return the loss; of verdicts the figures are both of its parts, in nats, and how often the positive wins."""
        prompts = batch.prompts.to(module.device)
        labels, asks = batch.labels.to(module.device), batch.asks.to(module.device)
        with module.autocast():
            hidden, _ = module.prompt_states(prompts)
            counted = labels != IGNORED
            logits = functional.linear(hidden[counted], module.head_weight).float()  # (predicted tokens, vocabulary)
        said = functional.cross_entropy(logits, labels[counted])
        if not batch.groups:
            return Loss(said * batch.weight, {"rankings": said.item()})
        assert len(logits) == len(asks)
        margins = logits[:, self.verdicts[0]] - logits[:, self.verdicts[1]]  # (rows,)
        won = _grouped(margins, batch.groups)  # (queries, passages)
        targets = torch.zeros(len(won), dtype=torch.long, device=won.device)
        against = functional.cross_entropy(won, targets)
        first = (won.argmax(dim=1) == 0).float().mean()
        figures = {"verdicts": said.item(), "against": against.item(), "first": first.item()}
        return Loss((said + against) * batch.weight, figures)


def judged(pair: Pair, rng: random.Random, *, passages: int) -> JudgedQuery:
    """Return a pair's query with one of its positives and some of its negatives, `passages` at most in all."""
    negatives = rng.sample(pair.negatives, min(len(pair.negatives), passages - 1))
    return JudgedQuery(pair.query, (rng.choice(pair.positives), *negatives))


def shuffled(passages: Sequence[str], rng: random.Random) -> tuple[list[str], str]:
    """Return passages in a random order, and the ranking that puts the first of them first and keeps the rest's order.

    >>> shuffled(["right", "wrong", "worse"], random.Random(0))
    (['wrong', 'worse', 'right'], '[3] > [1] > [2]')
    """
    places = rng.sample(range(len(passages)), len(passages))  # places[i] is the passage shown as [i + 1]
    shown = [passages[place] for place in places]
    best = places.index(0)
    return shown, " > ".join(f"[{place + 1}]" for place in (best, *(i for i in range(len(places)) if i != best)))


def _row(encoder: PromptEncoder, parts: Sequence[Part], answer: Sequence[int]) -> DensePrompt:
    return dense_prompt(plan_prompt(parts, encoder.prompts), answer)


def _batch(
    rows: Sequence[tuple[DensePrompt, tuple[int, ...]]], pad: int, groups: tuple[int, ...], weight: float
) -> RerankingBatch:
    prompts = pad_prompts([prompt for prompt, _ in rows], pad)
    labels = torch.full_like(prompts.ids, IGNORED)
    asks = torch.tensor([len(prompt.ids) - len(answer) for prompt, answer in rows])
    for index, ((_, answer), ask) in enumerate(zip(rows, asks.tolist(), strict=True)):
        labels[index, ask : ask + len(answer)] = torch.tensor(answer)
    return RerankingBatch(prompts, labels, asks, groups, weight)


def _grouped(margins: Tensor, groups: Sequence[int]) -> Tensor:
    """Return (queries, longest group), `-inf` where a query has fewer."""
    parts = torch.split(margins, list(groups))
    return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True, padding_value=-torch.inf)
