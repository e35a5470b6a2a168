"""Texts as padded token ids with labels: which tokens of a text or a conversation are predicted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from grit_integrations.evaluation.row_kinds import TextRow
from grit_integrations.prompts.formats import Segment, Special, Text, followed_by
from grit_integrations.prompts.prompt_format import PromptFormat
from grit_integrations.prompts.tokenizer import PromptTokenizer
from grit_integrations.prompts.turns import Turns

IGNORED = -100  # a label that no loss counts


class PromptEncoder:
    """Tokenise prompts with the tokenizer that inference uses, so that both see the same ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, prompt_format: PromptFormat | None = None) -> None:
        self.tokenizer = tokenizer
        self.prompts = PromptTokenizer(tokenizer, prompt_format)
        self.pad = self.prompts.eos_id if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text inside a prompt."""
        return self.prompts.encode_texts(texts)

    def parts(self, parts: Sequence[Text]) -> list[int]:
        """Return the joined ids of a prompt's parts."""
        return self.prompts.encode(parts)

    def conversation(self, text: TextRow, *, longest: int | None = None) -> tuple[list[int], list[int]]:
        """Return ids and labels: plain text is predicted whole, of a conversation only the responses and `</s>`.

        A plain text longer than `longest` is truncated. A conversation first loses the beginning of its first turn,
        where a document stands, so that the question and its answer stay.
        """
        if longest is not None and len(text.turns) > 1:
            excess = len(self.conversation(text)[0]) - longest
            return self._conversation(text, dropped=max(0, excess), longest=longest)
        return self._conversation(text, dropped=0, longest=longest)

    def _conversation(self, text: TextRow, *, dropped: int, longest: int | None) -> tuple[list[int], list[int]]:
        parts, predicted = _layout(text, self.prompts.format.turns)
        pieces = self.prompts.encode_each(parts)
        first = next(index for index, part in enumerate(parts) if isinstance(part, Segment) and part.content)
        pieces[first] = pieces[first][dropped:]
        ids: list[int] = []
        labels: list[int] = []
        for piece, counts in zip(pieces, predicted, strict=True):
            ids += piece
            counted = min(len(piece), counts)
            labels += [*piece[:counted], *[IGNORED] * (len(piece) - counted)]
        return ids[:longest], labels[:longest]


_ALL = sys.maxsize


def _layout(text: TextRow, form: Turns) -> tuple[list[Text], list[int]]:
    """Return the parts of a training prompt, and how many of each one's first tokens are predicted.

    Behind a response that is one: EOS, or what a chat template ends a turn with.
    """
    if len(text.turns) == 1:
        return [Special.BOS, Segment(text.turns[0], content=True), Special.EOS], [0, _ALL, _ALL]
    parts: list[Text] = []
    predicted: list[int] = []
    before = "start"
    for index, turn in enumerate(text.turns):
        role = "assistant" if index % 2 else "user"
        *lead, content = followed_by(form.lead(before, role), turn)
        parts += [*lead, content]
        predicted += [int(before == "assistant"), *[0] * len(lead)][: len(lead)]
        predicted.append(_ALL if role == "assistant" else 0)
        before = role
    if before == "assistant":
        end = form.lead("assistant", "user")[0]
        parts.append(end)
        predicted.append(1)
    return parts, predicted


@dataclass(frozen=True, slots=True)
class TextBatch:
    """A causal batch; all (rows, tokens)."""

    ids: Tensor
    attended: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> TextBatch:
        """Return the same on a device."""
        return TextBatch(self.ids.to(device), self.attended.to(device), self.labels.to(device))


def text_batch(encoder: PromptEncoder, texts: Sequence[TextRow], *, longest: int) -> TextBatch:
    """Tokenise texts and cut each to `longest`; labels are already aligned with the ids, not shifted."""
    rows = [encoder.conversation(text, longest=longest) for text in texts]
    ids = padded([row for row, _ in rows], encoder.pad)
    attended = padded([[1] * len(row) for row, _ in rows], 0)
    return TextBatch(ids, attended, padded([labels for _, labels in rows], IGNORED))


def padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Return rows of one width, `value` filling them on the right; (rows, tokens)."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])
