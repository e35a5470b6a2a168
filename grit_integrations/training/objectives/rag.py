"""The RAG stream: questions answered from documents, read in the blocks that each caching mode reads them in.

The paper trains on plain causal prompts alone and loses answers where blocks are cached. Here a share of the rows has
exactly the attention patterns of `docs/caching.md`: documents as isolated bidirectional blocks, moved to their places.
"""

from __future__ import annotations

import random
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from grit_integrations.evaluation.labelled_texts import IGNORED, PromptEncoder
from grit_integrations.options import Caching
from grit_integrations.prompts.formats import merge_turns
from grit_integrations.prompts.layout import lay_out
from grit_integrations.prompts.plan import plan_prompt
from grit_integrations.quoting.spans import Spans
from grit_integrations.training.config import RagConfig
from grit_integrations.training.module import GritModule
from grit_integrations.training.objectives.objective import Context, Loss, StreamObjective
from grit_integrations.training.rows.dense_prompts import DenseBatch, DensePrompt, dense_prompt, pad_prompts
from grit_integrations.training.rows.question_rows import QuestionRow, cut_context
from grit_integrations.training.rows.stream import CHARACTERS_PER_TOKEN, Stream

TEMPLATE_TOKENS = 40  # of a prompt, about, beside question and documents
MOST_TOKENS = 0.9  # of the window: a longer prompt is left out


@dataclass(frozen=True, slots=True)
class Example:
    """A question on documents in a caching mode; `documents[gold]` holds the answer."""

    question: str
    documents: tuple[str, ...]
    gold: int
    answer: str
    caching: Caching


@dataclass(frozen=True, slots=True)
class RagRow:
    """An example as a row of tokens.

    Attributes:
        prompt: all tokens, `</s>` behind the answer included.
        answer: the tokens that are predicted, the last of the row.
        starts: where the answer's first token stands in the gold document, in the row.
        allowed: for each predicted token, those that quoting would have allowed there.
    """

    prompt: DensePrompt
    answer: tuple[int, ...]
    starts: tuple[int, ...]
    allowed: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class RagBatch:
    """Rows padded on the right; `weight` is their share of all rows, 1 on average over the processes."""

    prompts: DenseBatch
    labels: Tensor  # (rows, tokens): the id that a position predicts
    asks: Tensor  # (rows,): the prompt's last position, which predicts the answer's first token
    starts: Tensor  # (rows, tokens) bool
    allowed: Tensor  # (predicted tokens, vocabulary) bool, in the order of the labels
    weight: float

    def to(self, device: torch.device) -> RagBatch:
        """Return the same on a device."""
        tensors = (self.labels, self.asks, self.starts, self.allowed)
        labels, asks, starts, allowed = (each.to(device) for each in tensors)
        return RagBatch(self.prompts.to(device), labels, asks, starts, allowed, self.weight)


class RagObjective(StreamObjective):
    """Cross-entropy of answers over all tokens, and over those that quoting allows; and where the pointers look."""

    def __init__(self, settings: RagConfig, stream: Stream[QuestionRow], context: Context) -> None:
        super().__init__("rag", settings.weight, stream, context, every=settings.every)
        self.settings = settings

    def next_batch(self) -> RagBatch:
        """Return this process's rows. All rows of a batch have contexts of about one length."""
        rng, settings = self.stream.rng("sample"), self.settings
        longest = rng.choices(settings.context_lengths, settings.context_shares)[0]
        examples: list[Example] = []
        while sum(map(_tokens, examples)) < settings.tokens:
            examples += self._examples(next(self.stream), longest, rng)
        own = self.context.processes.share(examples)
        rows = [rag_row(self.context.encoder, example) for example in own]
        fitting = [row for row in rows if len(row.prompt.ids) <= MOST_TOKENS * self.context.window] or rows[:1]
        vocabulary = len(self.context.encoder.tokenizer)
        weight = len(own) * self.context.processes.count / len(examples)
        return rag_batch(fitting, pad=self.context.encoder.pad, vocabulary=vocabulary, weight=weight)

    def _examples(self, questions: Sequence[QuestionRow], longest: int, rng: random.Random) -> list[Example]:
        cut = [cut_context(question, rng, longest=longest) for question in questions]
        return [self._example(each, [other.context for other in cut if other is not each], rng) for each in cut]

    def _example(self, question: QuestionRow, others: Sequence[str], rng: random.Random) -> Example:
        caching: Caching = rng.choices(list(self.settings.caching), list(self.settings.caching.values()))[0]
        documents = [question.context]
        misleading = [text for text in dict.fromkeys(others) if question.answer not in text]
        if rng.random() < self.settings.several and len(misleading) >= 2:
            documents = rng.sample([question.context, *rng.sample(misleading, 2)], 3)
        gold = documents.index(question.context)
        return Example(question.question, tuple(documents), gold, question.answer, caching)

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
        quoted = functional.cross_entropy(logits.masked_fill(~rows.allowed, -torch.inf), targets, reduction="none")
        first = quoted[_first(counted, rows.asks)].mean()
        value = settings.free * free + settings.quoted * (quoted.mean() + first)
        parts = {"free": free, "quoted": quoted.mean(), "first": first}
        if pointed is not None:
            value = value + settings.pointed * pointed
            parts["pointed"] = pointed
        return Loss(value * batch.weight, {name: part.item() for name, part in parts.items()})

    def _pointed(self, module: GritModule, before: Tensor, rows: RagBatch) -> Tensor | None:
        """Return how far the pointers are from the answer's beginning; `None` where the recipe weighs that by 0."""
        if not self.settings.pointed:
            return None
        from grit_integrations.training.objectives.pointers import pointer_loss, pointer_scores

        scores = pointer_scores(module.lm, before, rows.prompts, rows.asks, heads=self.settings.pointers)
        return pointer_loss(scores, rows.starts)


def rag_row(encoder: PromptEncoder, example: Example) -> RagRow:
    """Tokenise an example as inference lays it out, with the answer behind it."""
    prompts = encoder.prompts
    plan = plan_prompt(lay_out(merge_turns(example.question), example.documents, caching=example.caching), prompts)
    answer = prompts.encode_texts([example.answer])[0]
    ended = (*answer, prompts.eos_id)
    prompt = dense_prompt(plan, ended)
    spans = Spans(prompts, example.documents)
    try:
        allowed = tuple(tuple(spans.allowed(ended[:index])) for index in range(len(ended)))
    except ValueError:  # an answer that begins inside a word is no quote
        allowed = ((), ())
    fits = len(allowed) == len(ended) and all(token in ids for token, ids in zip(ended, allowed, strict=True))
    return RagRow(prompt, ended, _starts(encoder, prompt, example), allowed if fits else _own(ended))


def _own(answer: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return what costs nothing: the answer's own tokens alone."""
    return tuple((token,) for token in answer)


def _starts(encoder: PromptEncoder, prompt: DensePrompt, example: Example) -> tuple[int, ...]:
    """Return the places of the tokens that the answer begins in, wherever it stands in the gold document as words."""
    text = encoder.prompts.neutralised(example.documents[example.gold])
    spelling = encoder.prompts.spell([text])[0]
    row = _place(prompt.ids, spelling.ids)
    if row is None:
        return ()
    ends = list(accumulate((end or 0 for end in spelling.ends), max))
    words = re.finditer(rf"(?<!\w){re.escape(example.answer)}(?!\w)", text)
    return tuple(row + bisect_right(ends, found.start()) for found in words)


def _place(ids: Sequence[int], part: Sequence[int]) -> int | None:
    """Return where `part` stands in `ids`."""
    length, wanted = len(part), tuple(part)
    return next((at for at in range(len(ids) - length + 1) if tuple(ids[at : at + length]) == wanted), None)


def rag_batch(rows: Sequence[RagRow], *, pad: int, vocabulary: int, weight: float = 1.0) -> RagBatch:
    """Pad rows on the right."""
    prompts = pad_prompts([row.prompt for row in rows], pad)
    labels = torch.full_like(prompts.ids, IGNORED)
    starts = torch.zeros_like(prompts.ids, dtype=torch.bool)
    asks = torch.tensor([len(row.prompt.ids) - len(row.answer) - 1 for row in rows])
    for index, (row, ask) in enumerate(zip(rows, asks.tolist(), strict=True)):
        labels[index, ask : ask + len(row.answer)] = torch.tensor(row.answer)
        starts[index, list(row.starts)] = True
    allowed = torch.zeros(sum(len(row.answer) for row in rows), vocabulary, dtype=torch.bool)
    for index, ids in enumerate(ids for row in rows for ids in row.allowed):
        allowed[index, list(ids)] = True
    return RagBatch(prompts, labels, asks, starts, allowed, weight)


def _first(counted: Tensor, asks: Tensor) -> Tensor:
    """Return which predicted tokens are an answer's first, (predicted tokens,) bool."""
    rows, places = counted.nonzero(as_tuple=True)
    return places == asks[rows]


def _tokens(example: Example) -> int:
    """Return about how many tokens an example has."""
    characters = len(example.question) + len(example.answer) + sum(map(len, example.documents))
    return TEMPLATE_TOKENS + characters // CHARACTERS_PER_TOKEN
