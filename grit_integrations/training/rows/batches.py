"""Rows to padded token ids: the GRIT prompts, which tokens are pooled, which are predicted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from grit_integrations.prompts.formats import ASSISTANT, USER, Segment, Special, embedding_header
from grit_integrations.prompts.formats import Text as PromptText
from grit_integrations.prompts.tokenizer import PromptTokenizer
from grit_integrations.training.rows.row_files import Pair, Text

T = TypeVar("T")
IGNORED = -100  # a label that no loss counts


class PromptEncoder:
    """Tokenise prompts with the tokenizer that inference uses, so that both see the same ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.prompts = PromptTokenizer(tokenizer)
        self.pad = self.prompts.eos_id if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text inside a prompt."""
        return self.prompts.encode_texts(texts)

    def parts(self, parts: Sequence[PromptText]) -> list[int]:
        """Return the joined ids of a prompt's parts."""
        return self.prompts.encode(parts)

    def conversation(self, text: Text, *, longest: int | None = None) -> tuple[list[int], list[int]]:
        """Return ids and labels: plain text is predicted whole, of a conversation only the responses and `</s>`.

        What is longer than `longest` loses the end of a plain text. A conversation loses the beginning of its first
        turn, where a document stands, so that the question and its answer stay; then its end.
        """
        if longest is not None and len(text.turns) > 1:
            excess = len(self.conversation(text)[0]) - longest
            return self._conversation(text, dropped=max(0, excess), longest=longest)
        return self._conversation(text, dropped=0, longest=longest)

    def _conversation(self, text: Text, *, dropped: int, longest: int | None) -> tuple[list[int], list[int]]:
        parts, predicted = _layout(text)
        pieces = self.prompts.encode_each(parts)
        pieces[_FIRST_TURN] = pieces[_FIRST_TURN][dropped:]
        ids = [token for piece in pieces for token in piece]
        labels = [
            token if counts else IGNORED for piece, counts in zip(pieces, predicted, strict=True) for token in piece
        ]
        return ids[:longest], labels[:longest]


_FIRST_TURN = 2  # where the first turn's text stands in a conversation's parts


def _layout(text: Text) -> tuple[list[PromptText], list[bool]]:
    """Return the parts of a training prompt, and which of them are predicted."""
    if len(text.turns) == 1:
        return [Special.BOS, Segment(text.turns[0], content=True), Special.EOS], [False, True, True]
    parts: list[PromptText] = [Special.BOS]
    predicted = [False]
    for index, turn in enumerate(text.turns):
        content = Segment(turn, content=True)
        if index % 2:
            opening = text.opening if index == len(text.turns) - 1 else ""
            parts += [Segment("\n" + ASSISTANT + opening), content, Special.EOS]
            predicted += [False, True, True]
        else:
            parts += [Segment(("\n" if index else "") + USER), content]
            predicted += [False, False]
    return parts, predicted


@dataclass(frozen=True, slots=True)
class EmbeddingInputs:
    """Embedding prompts padded on the right; all (rows, tokens)."""

    ids: Tensor
    attended: Tensor  # 1 for real tokens
    sample: Tensor  # 1 for the text's own tokens, which alone are pooled

    def to(self, device: torch.device) -> EmbeddingInputs:
        """Return the same on a device."""
        return EmbeddingInputs(self.ids.to(device), self.attended.to(device), self.sample.to(device))

    def split(self, rows: int) -> list[EmbeddingInputs]:
        """Return parts of at most `rows` rows, each as wide as its longest."""
        parts = zip(*(torch.split(each, rows) for each in (self.ids, self.attended, self.sample)), strict=True)
        return [EmbeddingInputs(*(tensor[:, : int(part[1].sum(dim=1).max())] for tensor in part)) for part in parts]


@dataclass(frozen=True, slots=True)
class ContrastiveBatch:
    """One process's queries, positives and hard negatives, and what it knows of the other processes' share."""

    queries: EmbeddingInputs
    passages: EmbeddingInputs  # this process's positives, then its negatives
    texts: Tensor  # (passages of all processes,): all positives, then all negatives; equal numbers for equal texts
    pairs: tuple[int, ...]  # how many queries each process has
    negatives: tuple[int, ...]  # how many hard negatives each process has


@dataclass(frozen=True, slots=True)
class TextBatch:
    """A causal batch; all (rows, tokens)."""

    ids: Tensor
    attended: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> TextBatch:
        """Return the same on a device."""
        return TextBatch(self.ids.to(device), self.attended.to(device), self.labels.to(device))


@dataclass(frozen=True, slots=True)
class Processes:
    """Which of how many processes this is. All draw the same rows, in the same order, and each takes its share."""

    index: int = 0
    count: int = 1

    def share(self, rows: Sequence[T], index: int | None = None) -> Sequence[T]:
        """Return every `count`-th row, this process's or another's: lengths are spread evenly."""
        return rows[self.index if index is None else index :: self.count]


def embedding_inputs(
    encoder: PromptEncoder, texts: Sequence[str], *, instruction: str | Sequence[str], longest: int
) -> EmbeddingInputs:
    """Pad embedding prompts on the right; only the text's own tokens are pooled.

    Args:
        encoder: of the model's tokenizer.
        texts: what is embedded, cut to `longest` tokens each.
        instruction: one for all texts, or one per text.
        longest: tokens of a text, its instruction not counted.
    """
    instructions = [instruction] * len(texts) if isinstance(instruction, str) else instruction
    headers = {each: encoder.parts(embedding_header(each)) for each in dict.fromkeys(instructions)}
    rows = [(headers[each], ids[:longest]) for each, ids in zip(instructions, encoder.texts(texts), strict=True)]
    ids = _pad([header + row for header, row in rows], encoder.pad)
    attended = _pad([[1] * (len(header) + len(row)) for header, row in rows], 0)
    sample = _pad([[0] * len(header) + [1] * len(row) for header, row in rows], 0)
    return EmbeddingInputs(ids, attended, sample)


def sample_pair(pair: Pair, rng: random.Random, *, negatives: int | None) -> Pair:
    """Return a pair with one of its positives, and so many of its negatives (all when `None`), drawn at random."""
    found = len(pair.positives)
    instructions = pair.passage_instructions or ("",) * (found + len(pair.negatives))
    positive = rng.randrange(found) if found > 1 else 0
    kept = range(len(pair.negatives))
    drawn = kept if negatives is None or negatives >= len(kept) else sorted(rng.sample(kept, negatives))
    chosen = (instructions[positive], *(instructions[found + index] for index in drawn))
    return Pair(
        pair.instruction, pair.query, (pair.positives[positive],), tuple(pair.negatives[i] for i in drawn), chosen
    )


def contrastive_batch(
    encoder: PromptEncoder,
    pairs: Sequence[Pair],
    *,
    query_tokens: int,
    passage_tokens: int,
    instructed: bool,
    processes: Processes | None = None,
) -> ContrastiveBatch:
    """Tokenise this process's share of `pairs`, each of which has one positive (see `sample_pair`).

    Args:
        encoder: of the model's tokenizer.
        pairs: those of all processes.
        query_tokens: longest query, its instruction not counted.
        passage_tokens: longest passage.
        instructed: whether the texts carry their instructions.
        processes: which share; all of them by default.
    """
    processes = processes or Processes()
    shares = [processes.share(pairs, index) for index in range(processes.count)]
    everyone = [pair.positives[0] for share in shares for pair in share]
    everyone += [text for share in shares for pair in share for text in pair.negatives]
    numbers: dict[str, int] = {}
    texts = torch.tensor([numbers.setdefault(text, len(numbers)) for text in everyone])
    own = shares[processes.index]
    passages = [(pair.positives[0], pair.passage_instructions[:1]) for pair in own]
    passages += [(text, pair.passage_instructions[at : at + 1]) for pair in own for at, text in _negatives(pair)]
    return ContrastiveBatch(
        embedding_inputs(
            encoder,
            [pair.query for pair in own],
            instruction=[pair.instruction if instructed else "" for pair in own],
            longest=query_tokens,
        ),
        embedding_inputs(
            encoder,
            [text for text, _ in passages],
            instruction=[each[0] if instructed and each else "" for _, each in passages],
            longest=passage_tokens,
        ),
        texts,
        tuple(map(len, shares)),
        tuple(sum(len(pair.negatives) for pair in share) for share in shares),
    )


def _negatives(pair: Pair) -> list[tuple[int, str]]:
    """Return a sampled pair's negatives with their places behind the positive."""
    return list(enumerate(pair.negatives, start=1))


def text_batch(encoder: PromptEncoder, texts: Sequence[Text], *, longest: int) -> TextBatch:
    """Tokenise texts and cut each to `longest`; labels are already aligned with the ids, not shifted."""
    rows = [encoder.conversation(text, longest=longest) for text in texts]
    ids = _pad([row for row, _ in rows], encoder.pad)
    attended = _pad([[1] * len(row) for row, _ in rows], 0)
    return TextBatch(ids, attended, _pad([labels for _, labels in rows], IGNORED))


def _pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])
