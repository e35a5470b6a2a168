"""The RAG stream: questions answered from documents, read in the blocks that each caching mode reads them in.

The paper trains on plain causal prompts alone and loses answers where blocks are cached. Here a share of the rows has
exactly the attention patterns of `docs/caching.md`: documents as isolated bidirectional blocks, moved to their places.
Questions on the same documents are one row, in which the documents are read once.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from grit_integrations.evaluation.labelled_texts import IGNORED
from grit_integrations.evaluation.phrases import SENTENCE_REQUESTS
from grit_integrations.options import Caching
from grit_integrations.training.config import RagConfig
from grit_integrations.training.module import GritModule
from grit_integrations.training.objectives.objective import Context, Loss, StreamObjective
from grit_integrations.training.rows.question_rows import (
    Asked,
    QuestionRow,
    answering_sentence,
    cut_context,
    is_sentence,
)
from grit_integrations.training.rows.rag_rows import Example, RagBatch, example_tokens, rag_batch, rag_rows
from grit_integrations.training.rows.stream import Stream

MOST_OVER = 1.2  # times a batch's tokens: what was drawn beyond it is left out, since memory grows with it
MOST_TOKENS = 0.9  # of the window: a longer prompt is left out


class RagObjective(StreamObjective):
    """Cross-entropy of answers over all tokens, and over those that quoting allows; and where the pointers look."""

    def __init__(self, settings: RagConfig, stream: Stream[QuestionRow], context: Context) -> None:
        super().__init__("rag", settings.weight, stream, context, every=settings.every)
        self.settings = settings

    def next_batch(self) -> RagBatch:
        """Return this process's rows. All rows of a batch have about one length, so that there is little padding."""
        rng, settings, least = self.stream.rng("sample"), self.settings, self.context.processes.count
        longest = rng.choices(settings.context_lengths, settings.context_shares)[0]
        documents = 3 if rng.random() < settings.several else 1
        examples: list[Example] = []
        while sum(map(example_tokens, examples)) < settings.tokens:
            examples += self._examples(next(self.stream), longest, documents, rng)
        sizes = accumulate(map(example_tokens, examples))
        examples = examples[: max(least, sum(size <= MOST_OVER * settings.tokens for size in sizes))]
        own = self.context.processes.share(examples)
        rows = [row for each in own for row in rag_rows(self.context.encoder, each, quoted=bool(settings.quoted))]
        fitting = [row for row in rows if len(row.prompt.ids) <= MOST_TOKENS * self.context.window] or rows[:1]
        vocabulary = len(self.context.encoder.tokenizer)
        weight = len(own) * self.context.processes.count / len(examples)
        return rag_batch(fitting, pad=self.context.encoder.pad, vocabulary=vocabulary, weight=weight)

    def _examples(self, rows: Sequence[QuestionRow], longest: int, documents: int, rng: random.Random) -> list[Example]:
        cut = [cut_context(row, rng, longest=longest) for row in rows]
        return [
            self._example(each, [other.context for other in cut if other is not each], documents, rng) for each in cut
        ]

    def _example(self, row: QuestionRow, others: Sequence[str], wanted: int, rng: random.Random) -> Example:
        settings = self.settings
        caching: Caching = rng.choices(list(settings.caching), list(settings.caching.values()))[0]
        asked = rng.sample(row.asked, min(len(row.asked), settings.questions))
        answers = [each.answer for each in asked if each.answer]
        near = _without(answers, row.others) if len(row.others) > 2 else _without(answers, others)
        count = wanted if len(near) > 2 else 1
        if rng.random() < settings.absent and len(near) >= count:
            unanswered = (self._answered("", Asked(each.question, ""), rng) for each in asked)
            return Example(tuple(rng.sample(near, count)), None, tuple(unanswered), caching)
        documents = rng.sample([row.context, *rng.sample(near, count - 1)], count)
        answered = (self._answered(row.context, each, rng) for each in asked)
        return Example(tuple(documents), documents.index(row.context), tuple(answered), caching)

    def _answered(self, context: str, each: Asked, rng: random.Random) -> Asked:
        """Return a question to be answered in words, or for a share of them in a sentence, which it then asks for."""
        wanted, whole = rng.random() < self.settings.sentences, is_sentence(each.answer)
        said = each.answer if whole else answering_sentence(context, each.answer) if wanted and each.answer else ""
        if said or (wanted and not each.answer):
            return replace(each, question=f"{each.question} {rng.choice(SENTENCE_REQUESTS)}", sentence=said)
        return each

    def loss(self, module: GritModule, batch: RagBatch) -> Loss:
        """Return the weighted sum; the figures are its parts, in nats."""
        rows, settings = batch.to(module.device), self.settings
        with module.autocast():
            hidden, before = module.prompt_states(rows.prompts)
            pointed = self._pointed(module, before, rows)
            counted = rows.labels != IGNORED
            logits = functional.linear(hidden[counted], module.head_weight).float()  # (predicted tokens, vocabulary)
        targets = rows.labels[counted]
        free = functional.cross_entropy(logits, targets)
        value, parts = settings.free * free, {"free": free}
        if rows.allowed is not None:
            quoted = functional.cross_entropy(logits.masked_fill(~rows.allowed, -torch.inf), targets, reduction="none")
            first = quoted[rows.asks[counted]].mean()
            value = value + settings.quoted * (quoted.mean() + first)
            parts |= {"quoted": quoted.mean(), "first": first}
        if pointed is not None:
            value = value + settings.pointed * pointed
            parts["pointed"] = pointed
        return Loss(value * batch.weight, {name: part.item() for name, part in parts.items()})

    def _pointed(self, module: GritModule, before: Tensor, rows: RagBatch) -> Tensor | None:
        """Return how far the pointers are from the answer's beginning; `None` where the recipe weighs that by 0."""
        if not self.settings.pointed:
            return None
        from grit_integrations.training.objectives.pointers import pointer_loss, pointer_scores

        found, places = rows.asks.nonzero(as_tuple=True)
        scores = pointer_scores(module.lm, before, rows.prompts, (found, places), heads=self.settings.pointers)
        return pointer_loss(scores, rows.starts)


def _without(answers: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Return the distinct texts in which no answer stands."""
    return [text for text in dict.fromkeys(texts) if not any(answer in text for answer in answers)]
