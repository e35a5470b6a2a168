"""A prompt to tokens: the decode loop, sampling, stop strings, streaming text."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from grit_integrations.engine.constraints import restricted
from grit_integrations.engine.detokenizer import Detokenizer
from grit_integrations.engine.record import GenerationRecord
from grit_integrations.engine.sampling import logits_processors, random_generator
from grit_integrations.engine.stop_text import StopText
from grit_integrations.results import GenerationChunk

if TYPE_CHECKING:
    from grit_integrations.engine.constraints import Constraint, TextSource
    from grit_integrations.engine.prefill import Prefill
    from grit_integrations.kv.reuse import Reuse
    from grit_integrations.loading.weights import Weights
    from grit_integrations.options import Decoding
    from grit_integrations.prompts.tokenizer import PromptTokenizer
    from grit_integrations.results import FinishReason, Generation

_RESERVE = 256  # new tokens that a cache has room for before it first doubles


@dataclass(slots=True)
class DecodingRow:
    """One running generation: what it has said so far, and how its next token is chosen and shown."""

    record: GenerationRecord
    constraint: Constraint | None
    processors: LogitsProcessorList
    generator: torch.Generator | None
    text: TextSource
    stop: StopText
    finish_reason: FinishReason | None = None
    logprob: float = 0.0  # of the chosen tokens among those that the constraint allowed

    @property
    def room(self) -> int:
        """How many tokens may still come."""
        return self.record.decoding.max_new_tokens - len(self.record.token_ids)


class Decoder:
    """Runs the causal language model for generations, each in a row with a cache of its own.

    Attributes:
        end_ids: the tokens that end a text.
    """

    def __init__(self, weights: Weights, tokenizer: PromptTokenizer, prefill: Prefill) -> None:
        self._prefill = prefill
        self._weights = weights
        self._tokenizer = tokenizer
        self.end_ids = _end_ids(weights, tokenizer)

    def start(
        self, reuse: Reuse, decoding: Decoding, *, asked: float, queued: float, constraint: Constraint | None = None
    ) -> DecodingRow:
        """Return a row for a prompt; nothing is computed yet.

        Args:
            reuse: the prompt and the blocks of it that are stored.
            decoding: how tokens are chosen and when they end.
            asked: when the caller asked, a `time.perf_counter()` reading.
            queued: when the request came to the model's thread.
            constraint: what the text may say.
        """
        reading = self._prefill.begin(reuse, room=min(decoding.max_new_tokens, _RESERVE))
        own_text = None if constraint is None else constraint.text
        return DecodingRow(
            record=GenerationRecord(reading=reading, decoding=decoding, asked=asked, queued=queued),
            constraint=constraint,
            processors=logits_processors(decoding),
            generator=random_generator(decoding, self._weights.device),
            text=own_text or Detokenizer(self._tokenizer.hf.backend_tokenizer),
            stop=StopText(decoding.stop),
        )

    @torch.inference_mode()
    def step(self, row: DecodingRow) -> GenerationChunk | None:
        """Advance a row by one block of its prompt, or by one token and those that must follow it.

        There is no chunk while the prompt is being read; a finished row's chunk holds its generation.
        """
        record = row.record
        if not record.reading.done:
            self._prefill.advance(record.reading)
            if not record.reading.done:
                return None
        logits = self._logits(record)  # (1, vocab) float32
        token = self._choose(row, logits)
        logprobs = record.note_logprob(self._tokenizer, logits, token)
        record.first_token = record.first_token or time.perf_counter()
        text = self._say(row, token) + self._forced(row)
        if row.finish_reason is None:
            return GenerationChunk(text, logprobs)
        return GenerationChunk(text, logprobs, self._finish(row, row.finish_reason))

    def _logits(self, record: GenerationRecord) -> Tensor:
        reading = record.reading
        if record.token_ids:
            read = reading.cache.get_seq_length() - len(reading.reuse.plan)
            return self._prefill.logits(reading.cache, tuple(record.token_ids[read:]))
        logits = self._prefill.last_logits(reading)
        record.prefilled = time.perf_counter()
        self._prefill.keep_suffix(reading)
        return logits

    def _choose(self, row: DecodingRow, logits: Tensor) -> int:
        if row.constraint is None:
            return self._sample(row, logits)
        logits = restricted(logits, row.constraint.allowed(row.room))
        token = self._sample(row, logits)
        row.constraint.advance(token)
        if row.constraint.weighs:
            row.logprob += float(torch.log_softmax(logits[0], dim=-1)[token])
        return token

    def _forced(self, row: DecodingRow) -> str:
        """Say what the constraint leaves no choice about. It is read together with the next token that is chosen."""
        text = ""
        while row.constraint is not None and row.finish_reason is None:
            forced = row.constraint.forced(row.room)
            if not forced:
                break
            for token in forced:
                if row.finish_reason is None:
                    row.constraint.advance(token)
                    text += self._say(row, token)
        return text

    def _sample(self, row: DecodingRow, logits: Tensor) -> int:
        if row.processors:
            prompt = row.record.reading.reuse.plan.prompt_ids
            seen = torch.tensor([[*prompt, *row.record.token_ids]], device=logits.device)
            logits = row.processors(cast(torch.LongTensor, seen), cast(torch.FloatTensor, logits.clone()))
        if row.generator is None:
            return int(logits.argmax(dim=-1))
        probabilities = torch.softmax(logits, dim=-1)
        return int(torch.multinomial(probabilities, 1, generator=row.generator))

    def _say(self, row: DecodingRow, token: int) -> str:
        """Take down a token, return the text that it adds, and set the row's finish reason if it is the last one."""
        row.record.token_ids.append(token)
        constraint = row.constraint
        if token in self.end_ids:
            row.finish_reason = "length" if constraint is not None and constraint.cut_short else "stop"
            shown = _rest(row)
        else:
            shown = row.stop.push(row.text.push(token))
            if row.stop.found:
                row.finish_reason = "stop"
            elif constraint is not None and constraint.over:
                row.finish_reason = "stop"
                shown += _rest(row)
            elif not row.room:
                row.finish_reason = "length"
                shown += _rest(row)
        row.record.pieces.append(shown)
        return shown

    def _finish(self, row: DecodingRow, finish_reason: FinishReason) -> Generation:
        generation = row.record.generation(finish_reason)
        return generation if row.constraint is None else row.constraint.completed(generation, row.logprob)


def _rest(row: DecodingRow) -> str:
    """Return the text that was held back."""
    return row.stop.push(row.text.flush()) + row.stop.flush()


def _end_ids(weights: Weights, tokenizer: PromptTokenizer) -> frozenset[int]:
    configured = getattr(weights.lm.generation_config, "eos_token_id", None)
    extra = configured if isinstance(configured, list) else [configured]
    return tokenizer.end_ids.union(int(token) for token in extra if token is not None)
