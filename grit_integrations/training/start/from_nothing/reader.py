"""A start from which layers find out how to read: heads that look at neighbours, at the question, and at its like.

A small model learns to answer from a passage once some heads of its last layer look at the place where the answer
begins and copy it. `start_as_reader` gives new layers heads that look at the neighbouring words, at the question, and
from the question's words at their like; `objectives/pointers.py` lets a loss say where they should look. Both leave a
plain Mistral.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grit_integrations.training.config import READER_WORKSPACE

# The workspace (`workspace.py`) of a reader, in coordinates: the embeddings write the first part, layers all.
IDENTITY = 64  # a constant, then a random direction per token, so that function words can be told apart
NEIGHBOURS = 96  # a projection of the bag of the words around a token; as many coordinates for the question's words
COPIED = 95  # a projection of the token that a pointer looks at, which the language-model head reads
assert IDENTITY + 2 * NEIGHBOURS + COPIED == READER_WORKSPACE

HEAD = 64  # coordinates of a head
HALF = HEAD // 2  # pairs that positions rotate, from fast to slow
_SLOW = 16  # the first pair that hardly turns over a prompt: there words are compared
CONSTANT = 0.3  # of an embedding's norm, in the workspace's first coordinate
_IDENTITY_NORM = 0.4
_WINDOW = 1.6  # how sharply a head keeps to its window, in nats per pair
_QUESTION = 24.0  # tokens between the question's middle and the prompt's end
_AWAY = 2.0  # how strongly pointers keep away from the question's own words, in nats per pair
_WRITTEN = 1.5
_COPY_LOGIT = 0.4


@dataclass(frozen=True, slots=True)
class _Regions:
    """Where the parts of a reader's workspace stand among the coordinates."""

    words: int

    @property
    def constant(self) -> int:
        return self.words

    @property
    def identity(self) -> slice:
        return slice(self.words + 1, self.words + IDENTITY)

    @property
    def neighbours(self) -> int:
        return self.words + IDENTITY

    @property
    def question(self) -> int:
        return self.neighbours + NEIGHBOURS

    @property
    def copied(self) -> slice:
        return slice(self.question + NEIGHBOURS, self.question + NEIGHBOURS + COPIED)


@torch.no_grad()
def start_as_reader(model: Any, codes: Sequence[int], *, workspace_scale: float, seed: int) -> None:
    """Set the three layers of a bag of words so that they begin as a reader.

    The first layer's heads gather the words around each token, the second layer's the words of the question, about
    24 tokens back. The last layer's first six heads compare the two and look where they agree, but not at the question
    itself, and copy what they look at to where the language-model head reads it. Words are compared in the pairs of a
    head that positions hardly rotate, so `rope_theta` should be 1e6.

    Args:
        model: a Mistral from `bag_of_words.start_as_bag` with `workspace=READER_WORKSPACE`; changed in place.
        codes: per token, a number that tokens of one word share.
        workspace_scale: by how much the final norm shrinks the workspace.
        seed: of the projections.
    """
    table = model.model.embed_tokens.weight  # (vocabulary, dim)
    norm = math.sqrt(table.shape[1])
    regions = _Regions(table.shape[1] - 1 - READER_WORKSPACE)
    generator = torch.Generator().manual_seed(seed)
    _identify(table, codes, regions, norm, generator)
    frequencies = [model.config.rope_parameters["rope_theta"] ** (-pair / HALF) for pair in range(HALF)]
    first, second, last = (_Head(layer.self_attn, regions, frequencies, norm) for layer in model.model.layers)
    projection = torch.randn(NEIGHBOURS, regions.words, generator=generator) / math.sqrt(NEIGHBOURS)
    for group in (0, 1):
        first.quieten(group)
        first.look(2 * group, range(2, 7))
        first.look(2 * group + 1, range(3, 8))
        second.quieten(group)
        second.look(2 * group, range(4, 8), back=_QUESTION)
        second.look(2 * group + 1, range(4, 8), back=_QUESTION)
    first.gather(projection, regions.neighbours)
    second.gather(projection, regions.question)
    copied = torch.randn(COPIED, regions.words, generator=generator) / math.sqrt(COPIED)
    for group, offset in enumerate((0, 31, 16)):
        last.quieten(group, to=0.3)
        last.compare(group)
        last.copy(group, copied[offset : offset + HEAD], regions.copied.start + offset)
    words = table[:, : regions.words]
    directions = words / words.norm(dim=1, keepdim=True).clamp(min=1e-3)
    model.lm_head.weight[:, regions.copied] += _COPY_LOGIT * (directions @ copied.T) / workspace_scale


def _identify(table: Tensor, codes: Sequence[int], regions: _Regions, norm: float, generator: torch.Generator) -> None:
    """Write constant and identity into the embeddings and make up the norm with the filler, the last coordinate."""
    directions = torch.randn(max(codes) + 1, IDENTITY - 1, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    table[:, regions.identity] = directions[torch.tensor(codes)] * _IDENTITY_NORM * norm
    table[:, regions.constant] = CONSTANT * norm
    table[:, -1] = (norm**2 - (table[:, :-1] ** 2).sum(dim=1)).clamp(min=1e-3).sqrt()


class _Head:
    """Writes the heads of one layer; two query heads share the keys and values of a group."""

    def __init__(self, attention: Any, regions: _Regions, frequencies: Sequence[float], norm: float) -> None:
        self._attention = attention
        self._regions = regions
        self._frequencies = frequencies
        self._one = 1 / (CONSTANT * norm)  # brings the constant to 1

    def quieten(self, group: int, *, to: float = 0.2) -> None:
        """Shrink the random keys of a group, so that what is written here stands out."""
        self._attention.k_proj.weight[group * HEAD : (group + 1) * HEAD].mul_(to)

    def look(self, head: int, pairs: range, *, back: float = 0.0, strength: float = _WINDOW) -> None:
        """Make a head look at the tokens around the one that stands `back` tokens before; away from them if negative.

        Query and key are constants that positions rotate: their product is greatest where the distance is `back`.
        """
        query, key = self._attention.q_proj.weight, self._attention.k_proj.weight
        amplitude, group = math.sqrt(abs(strength) * math.sqrt(HEAD)), head // 2
        for pair in pairs:
            turn = self._frequencies[pair] * back
            for offset, value in ((pair, math.cos(turn)), (pair + HALF, -math.sin(turn))):
                row = head * HEAD + offset
                query[row] = 0
                query[row, self._regions.constant] = math.copysign(amplitude, strength) * value * self._one
                key[group * HEAD + offset] = 0
            key[group * HEAD + pair, self._regions.constant] = amplitude * self._one

    def gather(self, projection: Tensor, target: int) -> None:
        """Make the first four heads write a projection of the words they look at."""
        for group, (low, high) in enumerate(((0, HEAD), (HEAD, NEIGHBOURS))):
            self._value(group, projection[low:high])
            for head in (2 * group, 2 * group + 1):
                self._output(head, target + low, _WRITTEN / 2, high - low)

    def compare(self, group: int) -> None:
        """Make a group's two heads compare the question's words with the words around each token."""
        query, key, third = self._attention.q_proj.weight, self._attention.k_proj.weight, NEIGHBOURS // 3
        heads = (2 * group, 2 * group + 1)
        for head in heads:
            for pair in range(_SLOW):
                query[[head * HEAD + pair, head * HEAD + pair + HALF]] *= 0.3
        for index in range(third):
            place = _SLOW + index if index < _SLOW else HALF + index
            key[group * HEAD + place] = 0
            key[group * HEAD + place, self._regions.neighbours + group * third + index] = 1.0
            for head in heads:
                query[head * HEAD + place] = 0
                query[head * HEAD + place, self._regions.question + group * third + index] = 1.0
        for head in heads:
            self.look(head, range(5, 9), back=_QUESTION - 3, strength=-_AWAY)

    def copy(self, group: int, projection: Tensor, target: int) -> None:
        """Make a group's two heads write a projection of the token they look at."""
        self._value(group, projection)
        for head in (2 * group, 2 * group + 1):
            self._output(head, target, 0.25, HEAD)

    def _value(self, group: int, projection: Tensor) -> None:
        rows = self._attention.v_proj.weight[group * HEAD : (group + 1) * HEAD]
        rows.zero_()
        rows[: len(projection), : self._regions.words] = projection

    def _output(self, head: int, target: int, scale: float, width: int) -> None:
        columns = slice(head * HEAD, head * HEAD + width)
        self._attention.o_proj.weight[target : target + width, columns] = scale * torch.eye(width)
