"""Rows to padded token ids: the GRIT prompts, which tokens are pooled, which are predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from grit_integrations.prompts import ASSISTANT, USER, Part, Segment, Special, embedding_header
from grit_integrations.training.data import Pair, Text

IGNORED = -100  # a label that no loss counts


class PromptEncoder:
    """Tokenise prompts segment by segment, as the inference side does, so that both see the same ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.pad = int(tokenizer.pad_token_id)
        self._special = {Special.BOS: int(tokenizer.bos_token_id), Special.EOS: int(tokenizer.eos_token_id)}

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text alone."""
        if not texts:
            return []
        return list(self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"])

    def parts(self, parts: Sequence[Part]) -> list[int]:
        """Return the joined ids of a prompt's parts."""
        ids: list[int] = []
        for part in parts:
            ids += self.texts([part.text])[0] if isinstance(part, Segment) else [self._special[part]]
        return ids

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
        if len(text.turns) == 1:
            ids = [self._special[Special.BOS], *self.texts(text.turns)[0], self._special[Special.EOS]]
            return ids[:longest], [IGNORED, *ids[1:]][:longest]
        ids, labels = [self._special[Special.BOS]], [IGNORED]
        for index, turn in enumerate(text.turns):
            answer = index % 2 == 1
            lead = "\n" + ASSISTANT if answer else ("\n" if index else "") + USER
            body = self.texts([turn])[0][dropped if index == 0 else 0 :]
            header = self.texts([lead])[0]
            closing = [self._special[Special.EOS]] if answer else []
            ids += [*header, *body, *closing]
            labels += [IGNORED] * len(header) + ([*body, *closing] if answer else [IGNORED] * len(body))
        return ids[:longest], labels[:longest]


@dataclass(frozen=True, slots=True)
class EmbeddingInputs:
    """One side of a contrastive batch; all (rows, tokens)."""

    ids: Tensor
    attended: Tensor
    sample: Tensor

    def to(self, device: torch.device) -> EmbeddingInputs:
        """Return the same on a device."""
        return EmbeddingInputs(self.ids.to(device), self.attended.to(device), self.sample.to(device))


@dataclass(frozen=True, slots=True)
class ContrastiveBatch:
    """Queries, and their positives followed by all hard negatives; `texts` numbers equal passages alike."""

    queries: EmbeddingInputs
    passages: EmbeddingInputs
    texts: Tensor  # (passages,)


@dataclass(frozen=True, slots=True)
class TextBatch:
    """A causal batch; all (rows, tokens)."""

    ids: Tensor
    attended: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> TextBatch:
        """Return the same on a device."""
        return TextBatch(self.ids.to(device), self.attended.to(device), self.labels.to(device))


def embedding_inputs(
    encoder: PromptEncoder, texts: Sequence[str], *, instruction: str, longest: int
) -> EmbeddingInputs:
    """Pad embedding prompts on the right; only the text's own tokens are pooled."""
    header = encoder.parts(embedding_header(instruction))
    rows = [ids[:longest] for ids in encoder.texts(texts)]
    ids = _pad([header + row for row in rows], encoder.pad)
    attended = _pad([[1] * (len(header) + len(row)) for row in rows], 0)
    sample = attended.clone()
    sample[:, : len(header)] = 0
    return EmbeddingInputs(ids, attended, sample)


def contrastive_batch(
    encoder: PromptEncoder, pairs: Sequence[Pair], *, query_tokens: int, passage_tokens: int, instructed: bool
) -> ContrastiveBatch:
    """Tokenise pairs. The instruction is the first pair's: a batch comes from one file, which has one instruction."""
    passages = [pair.positives[0] for pair in pairs] + [text for pair in pairs for text in pair.negatives]
    numbers: dict[str, int] = {}
    texts = torch.tensor([numbers.setdefault(text, len(numbers)) for text in passages])
    instruction = pairs[0].instruction if instructed else ""
    queries = embedding_inputs(encoder, [pair.query for pair in pairs], instruction=instruction, longest=query_tokens)
    return ContrastiveBatch(queries, embedding_inputs(encoder, passages, instruction="", longest=passage_tokens), texts)


def text_batch(encoder: PromptEncoder, texts: Sequence[Text], *, longest: int) -> TextBatch:
    """Tokenise texts and cut each to `longest`; labels are already aligned with the ids, not shifted."""
    rows = [encoder.conversation(text, longest=longest) for text in texts]
    ids = _pad([row for row, _ in rows], encoder.pad)
    attended = _pad([[1] * len(row) for row, _ in rows], 0)
    return TextBatch(ids, attended, _pad([labels for _, labels in rows], IGNORED))


def _pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])
