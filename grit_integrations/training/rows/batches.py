"""Pairs to padded token ids: the GRIT prompts, and which of their tokens are pooled."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from grit_integrations.evaluation.labelled_texts import PromptEncoder, padded
from grit_integrations.evaluation.row_kinds import Pair

_T = TypeVar("_T")


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
class Processes:
    """Which of how many processes this is. All draw the same rows, in the same order, and each takes its share."""

    index: int = 0
    count: int = 1

    def share(self, rows: Sequence[_T], index: int | None = None) -> Sequence[_T]:
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
    headers = {
        each: encoder.parts(encoder.prompts.format.embedding_header(each)) for each in dict.fromkeys(instructions)
    }
    rows = [(headers[each], ids[:longest]) for each, ids in zip(instructions, encoder.texts(texts), strict=True)]
    ids = padded([header + row for header, row in rows], encoder.pad)
    attended = padded([[1] * (len(header) + len(row)) for header, row in rows], 0)
    sample = padded([[0] * len(header) + [1] * len(row) for header, row in rows], 0)
    return EmbeddingInputs(ids, attended, sample)


def sample_pair(pair: Pair, rng: random.Random, *, negatives: int | None) -> Pair:
    """Return a pair with one of its positives and `negatives` of its negatives (all when `None`), drawn at random."""
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
