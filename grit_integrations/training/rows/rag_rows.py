"""Rows of the RAG stream as tokens: the documents once, behind them each question with its answer."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from grit_integrations.evaluation.labelled_texts import IGNORED, PromptEncoder
from grit_integrations.options import MODES, Caching
from grit_integrations.prompts.formats import merge_turns
from grit_integrations.prompts.layout import lay_out
from grit_integrations.prompts.plan import plan_prompt
from grit_integrations.quoting.spans import Spans
from grit_integrations.training.rows.dense_prompts import DenseBatch, DensePrompt, branch, dense_prompt, pad_prompts
from grit_integrations.training.rows.question_rows import Asked
from grit_integrations.training.rows.stream import CHARACTERS_PER_TOKEN

TEMPLATE_TOKENS = 40  # of a prompt, about, beside question and documents


@dataclass(frozen=True, slots=True)
class Example:
    """Questions on documents in a caching mode; `documents[gold]` has the answers; it is `None` where none has them."""

    documents: tuple[str, ...]
    gold: int | None
    asked: tuple[Asked, ...]
    caching: Caching


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer inside a row of tokens.

    Attributes:
        ask: where the prompt ends: the position that predicts the answer's first token.
        ids: the tokens that are predicted, `</s>` included.
        starts: where in the row the answer's first token stands in the gold document.
        allowed: for each predicted token, those that quoting would have allowed there; `None` where that is not wanted.
    """

    ask: int
    ids: tuple[int, ...]
    starts: tuple[int, ...]
    allowed: tuple[tuple[int, ...], ...] | None


@dataclass(frozen=True, slots=True)
class RagRow:
    """A row of tokens with the answers in it, from left to right."""

    prompt: DensePrompt
    answers: tuple[Answered, ...]


@dataclass(frozen=True, slots=True)
class RagBatch:
    """Rows padded on the right; `weight` is their share of all rows, 1 on average over the processes."""

    prompts: DenseBatch
    labels: Tensor  # (rows, tokens): the id that a position predicts
    asks: Tensor  # (rows, tokens) bool: the prompts' last positions, which predict an answer's first token
    starts: Tensor  # (answers, tokens) bool, in the order of `asks`
    allowed: Tensor | None  # (predicted tokens, vocabulary) bool, in the order of the labels
    weight: float

    def to(self, device: torch.device) -> RagBatch:
        """Return the same on a device."""
        labels, asks, starts = (each.to(device) for each in (self.labels, self.asks, self.starts))
        allowed = None if self.allowed is None else self.allowed.to(device)
        return RagBatch(self.prompts.to(device), labels, asks, starts, allowed, self.weight)


def rag_rows(encoder: PromptEncoder, example: Example, *, quoted: bool) -> list[RagRow]:
    """Tokenise an example as inference lays it out, with the answers behind it.

    Questions share a row where their prompts begin with the documents; where the question stands first, each has its
    own.

    Args:
        encoder: of the model's tokenizer.
        example: its questions, documents and caching mode.
        quoted: whether the tokens that quoting allows are found.
    """
    made = [_row(encoder, example, each, quoted=quoted) for each in example.asked]
    if MODES[example.caching].embedded[:1] == ("query",):
        return made
    lengths = [len(row.answers[0].ids) for row in made]
    branches = branch([row.prompt for row in made], [length + 1 for length in lengths])
    moved = [start - branches.shared for start in branches.starts]
    answers = [
        replace(row.answers[0], ask=row.answers[0].ask + by, starts=_moved(row.answers[0].starts, branches.shared, by))
        for row, by in zip(made, moved, strict=True)
    ]
    return [RagRow(branches.prompt, tuple(answers))]


def _moved(starts: Sequence[int], shared: int, by: int) -> tuple[int, ...]:
    return tuple(start if start < shared else start + by for start in starts)


def _row(encoder: PromptEncoder, example: Example, each: Asked, *, quoted: bool) -> RagRow:
    prompts = encoder.prompts
    turns = merge_turns(each.question)
    plan = plan_prompt(lay_out(turns, example.documents, form=prompts.format.turns, caching=example.caching), prompts)
    ended = (*prompts.encode_texts([each.said])[0], prompts.eos_id)
    prompt = dense_prompt(plan, ended)
    starts = _starts(encoder, prompt, example, each)
    allowed = _allowed(encoder, example, each, ended) if quoted else None
    return RagRow(prompt, (Answered(len(prompt.ids) - len(ended) - 1, ended, starts, allowed),))


def _allowed(
    encoder: PromptEncoder, example: Example, each: Asked, ended: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    """Return what quoting allows; the answer's own tokens alone, which cost nothing, where it is no quote."""
    own = tuple((token,) for token in ended)
    if each.said != each.answer:
        return own
    spans = Spans(encoder.prompts, example.documents)
    try:
        allowed = tuple(tuple(spans.allowed(tuple(ended[:index]))) for index in range(len(ended)))
    except ValueError:  # an answer that begins inside a word is no quote
        return own
    return allowed if all(token in ids for token, ids in zip(ended, allowed, strict=True)) else own


def _starts(encoder: PromptEncoder, prompt: DensePrompt, example: Example, each: Asked) -> tuple[int, ...]:
    """Return the places of the tokens that the answer begins in, wherever it stands in the gold document as words."""
    if example.gold is None or each.said != each.answer:
        return ()
    text = encoder.prompts.neutralised(example.documents[example.gold])
    spelling = encoder.prompts.spell([text])[0]
    row = _place(prompt.ids, spelling.ids)
    if row is None:
        return ()
    ends = list(accumulate((end or 0 for end in spelling.ends), max))
    words = re.finditer(rf"(?<!\w){re.escape(each.answer)}(?!\w)", text)
    return tuple(row + bisect_right(ends, found.start()) for found in words)


def _place(ids: Sequence[int], part: Sequence[int]) -> int | None:
    """Return where `part` stands in `ids`."""
    length, wanted = len(part), tuple(part)
    return next((at for at in range(len(ids) - length + 1) if tuple(ids[at : at + length]) == wanted), None)


def rag_batch(rows: Sequence[RagRow], *, pad: int, vocabulary: int, weight: float = 1.0) -> RagBatch:
    """Pad rows on the right."""
    prompts = pad_prompts([row.prompt for row in rows], pad)
    labels = torch.full_like(prompts.ids, IGNORED)
    asks = torch.zeros_like(prompts.ids, dtype=torch.bool)
    answers = [(index, answer) for index, row in enumerate(rows) for answer in row.answers]
    starts = torch.zeros(len(answers), prompts.ids.shape[1], dtype=torch.bool)
    for number, (index, answer) in enumerate(answers):
        labels[index, answer.ask : answer.ask + len(answer.ids)] = torch.tensor(answer.ids)
        asks[index, answer.ask] = True
        starts[number, list(answer.starts)] = True
    return RagBatch(prompts, labels, asks, starts, _mask([answer for _, answer in answers], vocabulary), weight)


def _mask(answers: Sequence[Answered], vocabulary: int) -> Tensor | None:
    """Return what quoting allows, (predicted tokens, vocabulary) bool; `None` where it was not looked for."""
    found = [ids for answer in answers if answer.allowed is not None for ids in answer.allowed]
    if not found:
        return None
    allowed = torch.zeros(len(found), vocabulary, dtype=torch.bool)
    for index, ids in enumerate(found):
        allowed[index, list(ids)] = True
    return allowed


def example_tokens(example: Example) -> int:
    """Return about how many tokens an example has."""
    asked = sum(
        TEMPLATE_TOKENS + (len(each.question) + len(each.said)) // CHARACTERS_PER_TOKEN for each in example.asked
    )
    return asked + sum(map(len, example.documents)) // CHARACTERS_PER_TOKEN
