"""A start from which a reader learns to judge: heads that look whether a passage has the question's words.

Verdicts of new layers say nothing for hundreds of steps: no gradient leads to comparing words. Here one group of heads
of each layer begins with it. The first tells whether a user's turn has begun, so that a cached passage can be told
from the question behind it. The second lets each word of the question look for its like in the passage. The third
gathers before the verdict how much of the question was found. Like `reader.py`, it leaves a plain Mistral.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from grit_integrations.training.config import READER_WORKSPACE
from grit_integrations.training.start.from_nothing.reader import CONSTANT, HALF, HEAD, IDENTITY

_GROUP = 3  # of the four groups of two heads that share keys and values; pointers are in the others
_WORDS = range(13, 30)  # pairs that hardly turn over a prompt: there words are compared
_MARKED, _SINK = 30, 31  # pairs for tokens behind the user's marker, and for `<s>`
_FLAG = 4.0  # what a flag is when it is up
_GAIN = 2.0  # makes up for the norm that the first layer adds
_LIKE, _NOWHERE, _HIDDEN = 40.0, 6.0, 40.0  # nats: a like word, `<s>` where there is none, a word that does not count
_MARKER, _START = 24.0, 12.0  # nats: the user's marker, `<s>` where there is none yet
_BEGINNING = 4.0  # makes up for the large norm of `<s>` behind the first layer
_BEFORE_LAST, _WINDOW = 1.7, 1.6  # gain before the last layer; nats per pair of its window
_QUESTION = 30.0  # tokens between the question's middle and the verdict
_VERDICT = 12.0  # what the flag weighs in the logits of yes and no


@torch.no_grad()
def start_as_judge(model: Any, *, begin: int, user: int, yes: int, no: int, seed: int) -> None:
    """Set one group of heads in each of a reader's layers, and three coordinates, to compare question and passage.

    Args:
        model: a Mistral that started by `reader.start_as_reader`, its workspace not folded; changed in place.
        begin: the id of `<s>`.
        user: the id of the marker before a user's turn.
        yes: the verdict's id, behind `Answer:`.
        no: the other verdict's.
        seed: of the projection in which words are compared.
    """
    table = model.model.embed_tokens.weight  # (vocabulary, dim)
    norm = math.sqrt(table.shape[1])
    words = table.shape[1] - 1 - READER_WORKSPACE
    flags = [words + IDENTITY - 3, words + IDENTITY - 2, words + IDENTITY - 1]  # of those that tell tokens apart
    identity = slice(words + 1, flags[0])
    _clear(model, flags)
    one = 1 / (CONSTANT * norm)  # brings the constant to 1
    sink, marker = (_detector(table[token, identity]) for token in (begin, user))
    first, second, last = (_Group(layer.self_attn) for layer in model.model.layers)
    first.key[_SINK, identity] = _START * sink + _MARKER * marker
    first.value[0, identity] = marker
    first.ask(_SINK, words, math.sqrt(HEAD) * one)
    first.write(flags[0], _FLAG / 2)
    _compare(second, table[:, :words], seed=seed)
    second.key[_SINK, identity] = _BEGINNING * sink
    second.key[_MARKED, flags[0]] = -_HIDDEN * math.sqrt(HEAD) / _FLAG * _GAIN
    second.value[0, words], second.value[0, identity] = _GAIN * one, -_GAIN * _BEGINNING * sink
    second.ask(_SINK, words, _NOWHERE * math.sqrt(HEAD) * one * _GAIN)
    second.ask(_MARKED, words, one * _GAIN)
    second.write(flags[1], _FLAG / 2)
    _gather(last, words, flags[1], one, model.config.rope_parameters["rope_theta"])
    last.write(flags[2], 1.0)
    model.lm_head.weight[yes, flags[2]], model.lm_head.weight[no, flags[2]] = _VERDICT, -_VERDICT


def _clear(model: Any, flags: list[int]) -> None:
    """Let nothing write or read the coordinates of the flags."""
    model.model.embed_tokens.weight[:, flags] = 0
    model.lm_head.weight[:, flags] = 0
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
            projection.weight[:, flags] = 0
        for projection in (attention.o_proj, mlp.down_proj):
            projection.weight[flags] = 0


def _detector(identity: Tensor) -> Tensor:
    """Return a direction in which a token's identity is 1 and others are near 0."""
    direction: Tensor = identity / identity.norm() ** 2
    return direction


class _Group:
    """The two heads of a layer that are written anew, with the keys and values that they share."""

    def __init__(self, attention: Any) -> None:
        place = slice(_GROUP * HEAD, (_GROUP + 1) * HEAD)
        self.key: Tensor = attention.k_proj.weight[place]
        self.value: Tensor = attention.v_proj.weight[place]
        self._heads = (2 * _GROUP, 2 * _GROUP + 1)
        self._query: nn.Parameter = attention.q_proj.weight
        self._output: nn.Parameter = attention.o_proj.weight
        self.key.zero_()
        self.value.zero_()
        for head in self._heads:
            self._query[head * HEAD : (head + 1) * HEAD] = 0
            self._output[:, head * HEAD : (head + 1) * HEAD] = 0

    def ask(self, row: int | list[int], column: int | slice, value: float | Tensor) -> None:
        """Set what both heads look for."""
        rows = torch.tensor(row if isinstance(row, list) else [row])
        for head in self._heads:
            self._query[head * HEAD + rows, column] = value

    def write(self, coordinate: int, scale: float) -> None:
        """Let both heads write the first coordinate of what they look at."""
        for head in self._heads:
            self._output[coordinate, head * HEAD] = scale


def _compare(group: _Group, table: Tensor, *, seed: int) -> None:
    """Let words look for their like, in a projection of the bag's coordinates; rare words are the longer ones."""
    generator = torch.Generator().manual_seed(seed)
    rows = [pair + half for half in (0, HALF) for pair in _WORDS]
    projection = torch.randn(len(rows), table.shape[1], generator=generator) / math.sqrt(len(rows))
    projection *= _GAIN * math.sqrt(_LIKE * math.sqrt(HEAD)) / table.norm(dim=1).median()
    group.key[rows, : table.shape[1]] = projection
    group.ask(rows, slice(table.shape[1]), projection)


def _gather(group: _Group, constant: int, flag: int, one: float, theta: float) -> None:
    """Let the verdict's position look at the question's words and take their flags; see the windows of `reader.py`."""
    amplitude = _BEFORE_LAST * math.sqrt(_WINDOW * math.sqrt(HEAD)) * one
    group.value[0, flag] = _BEFORE_LAST
    for pair in range(4, 8):
        turn = theta ** (-pair / HALF) * _QUESTION
        group.key[pair, constant] = amplitude
        group.ask(pair, constant, amplitude * math.cos(turn))
        group.ask(pair + HALF, constant, -amplitude * math.sin(turn))
