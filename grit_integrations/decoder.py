"""A prompt to tokens: the decode loop, sampling, stop strings, streaming text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from grit_integrations.detokenization import Detokenizer
from grit_integrations.generation import (
    Decoding,
    FinishReason,
    Generation,
    GenerationChunk,
    Timings,
    TokenLogprob,
    Usage,
)
from grit_integrations.kv.reuse import Reuse
from grit_integrations.prefill import Prefill, Reading
from grit_integrations.tokenization import PromptTokenizer
from grit_integrations.weights import Weights

_RESERVE = 256  # new tokens that a cache has room for before it first doubles


class StopText:
    """Cuts a growing text at the first stop string and holds back what could become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """Return what of the text can be shown now that `piece` has come."""
        text = self._held + piece
        at = min((i for i in (text.find(stop) for stop in self._stops) if i >= 0), default=-1)
        if at >= 0:
            self.found, self._held = True, ""
            return text[:at]
        keep = self._possible_stop(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return the held-back text; no stop string came of it."""
        held, self._held = self._held, ""
        return held

    def _possible_stop(self, text: str) -> int:
        """Return the length of the longest end of `text` that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=0) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0


@dataclass(slots=True)
class Row:
    """One running generation: its prompt being read, its options, and what it has said so far."""

    reading: Reading
    decoding: Decoding
    processors: LogitsProcessorList
    generator: torch.Generator | None
    detokenizer: Detokenizer
    stop: StopText
    asked: float
    queued: float
    started: float
    first_token: float = 0.0
    prefilled: float = 0.0
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class Decoder:
    """Runs the causal language model for generations, each in a row with a cache of its own."""

    def __init__(self, weights: Weights, tokenizer: PromptTokenizer, prefill: Prefill) -> None:
        self._prefill = prefill
        self._device = weights.device
        self._tokenizer = tokenizer
        self._backend = tokenizer.hf.backend_tokenizer
        self._end_ids = _end_ids(weights, tokenizer)
        self._letter = tokenizer.encode_texts(["a"])[0]

    def start(self, reuse: Reuse, decoding: Decoding, *, asked: float, queued: float) -> Row:
        """Return a row for a prompt; nothing is computed yet.

        Args:
            reuse: the prompt and the blocks of it that are stored.
            decoding: how tokens are chosen and when they end.
            asked: when the caller asked, a `time.perf_counter()` reading.
            queued: when the request came to the model's thread.
        """
        return Row(
            reading=self._prefill.begin(reuse, room=min(decoding.max_new_tokens, _RESERVE)),
            decoding=decoding,
            processors=_processors(decoding),
            generator=_generator(decoding, self._device),
            detokenizer=Detokenizer(self._backend),
            stop=StopText(decoding.stop),
            asked=asked,
            queued=queued,
            started=time.perf_counter(),
        )

    def step(self, rows: Sequence[Row]) -> list[GenerationChunk | None]:
        """Advance each row by one block of its prompt or one token, and return one chunk a row.

        There is none while the prompt is being read; a finished row's chunk holds its generation.

        The rows run one after the other: batching them belongs here and changes no caller.
        """
        return [self._step(row) for row in rows]

    @torch.inference_mode()
    def _step(self, row: Row) -> GenerationChunk | None:
        if not row.reading.done:
            self._prefill.advance(row.reading)
            if not row.reading.done:
                return None
        first = not row.token_ids
        logits = self._logits(row)  # (1, vocab) float32
        token = self._choose(row, logits)
        logprobs = self._logprobs(row, logits, token)
        now = time.perf_counter()
        row.first_token = row.first_token or now
        if first:
            self._prefill.keep_suffix(row.reading)
        row.token_ids.append(token)
        row.logprobs += logprobs
        text = self._text(row, token)
        if row.finish_reason is None:
            return GenerationChunk(text, logprobs)
        return GenerationChunk(text, logprobs, self._finish(row))

    def _logits(self, row: Row) -> Tensor:
        if row.token_ids:
            return self._prefill.logits(row.reading.cache, (row.token_ids[-1],))
        logits = self._prefill.last_logits(row.reading)
        row.prefilled = time.perf_counter()
        return logits

    def _choose(self, row: Row, logits: Tensor) -> int:
        if row.processors:
            seen = torch.tensor([[*row.reading.reuse.plan.prompt_ids, *row.token_ids]], device=logits.device)
            logits = row.processors(cast(torch.LongTensor, seen), cast(torch.FloatTensor, logits.clone()))
        if row.generator is None:
            return int(logits.argmax(dim=-1))
        probabilities = torch.softmax(logits, dim=-1)
        return int(torch.multinomial(probabilities, 1, generator=row.generator))

    def _logprobs(self, row: Row, logits: Tensor, token: int) -> tuple[TokenLogprob, ...]:
        wanted = row.decoding.logprobs
        if wanted is None:
            return ()
        scores = torch.log_softmax(logits[0], dim=-1)
        top = torch.topk(scores, min(wanted, scores.numel())) if wanted else None
        pairs = () if top is None else tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))
        alternatives = tuple((self._piece(index), value) for index, value in pairs)
        return (TokenLogprob(self._piece(token), token, float(scores[token]), alternatives),)

    def _text(self, row: Row, token: int) -> str:
        """Return the text that `token` adds, and set the row's finish reason if it is the last one."""
        if token in self._end_ids:
            row.finish_reason = "stop"
            shown = row.stop.push(row.detokenizer.flush()) + row.stop.flush()
        else:
            shown = row.stop.push(row.detokenizer.push(token))
            if row.stop.found:
                row.finish_reason = "stop"
            elif len(row.token_ids) == row.decoding.max_new_tokens:
                row.finish_reason = "length"
                shown += row.stop.push(row.detokenizer.flush()) + row.stop.flush()
        row.pieces.append(shown)
        return shown

    def _finish(self, row: Row) -> Generation:
        assert row.finish_reason is not None
        end = time.perf_counter()
        reading, reuse = row.reading, row.reading.reuse
        timings = Timings(
            queue=row.started - row.queued,
            load=reuse.load_seconds + reading.place_seconds,
            prefill=row.prefilled - row.started - reading.place_seconds,
            time_to_first_token=row.first_token - row.asked,
            decode=end - row.first_token,
        )
        return Generation(
            text="".join(row.pieces),
            token_ids=tuple(row.token_ids),
            finish_reason=row.finish_reason,
            usage=Usage(len(reuse.plan), len(row.token_ids), reuse.read_tokens, reuse.created_tokens),
            timings=timings,
            cache=reuse.report(),
            logprobs=tuple(row.logprobs),
        )

    def _piece(self, token: int) -> str:
        """Return the text of one token inside a text, with its leading space."""
        before = self._backend.decode(self._letter)
        return str(self._backend.decode([*self._letter, token], skip_special_tokens=False)[len(before) :])


def _end_ids(weights: Weights, tokenizer: PromptTokenizer) -> frozenset[int]:
    configured = getattr(weights.lm.generation_config, "eos_token_id", None)
    extra = configured if isinstance(configured, list) else [configured]
    return frozenset([tokenizer.eos_id, *(int(token) for token in extra if token is not None)])


def _processors(decoding: Decoding) -> LogitsProcessorList:
    """Return transformers' own processors in the order in which `generate` applies them."""
    processors = LogitsProcessorList()
    if decoding.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty))
    if decoding.temperature == 0:
        return processors
    if decoding.temperature != 1.0:
        processors.append(TemperatureLogitsWarper(decoding.temperature))
    if decoding.top_k:
        processors.append(TopKLogitsWarper(decoding.top_k))
    if decoding.top_p < 1.0:
        processors.append(TopPLogitsWarper(decoding.top_p))
    return processors


def _generator(decoding: Decoding, device: torch.device) -> torch.Generator | None:
    """Return the row's own source of randomness, or `None` for greedy decoding."""
    if decoding.temperature == 0:
        return None
    generator = torch.Generator(device=device)
    if decoding.seed is None:
        generator.seed()
    else:
        generator.manual_seed(decoding.seed)
    return generator
