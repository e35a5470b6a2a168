"""A prompt to tokens: the decode loop, sampling, constraints, stop strings, streaming text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from grit_integrations.engine.constraints import (
    Constraint,
    Permutation,
    PermutationConstraint,
    SpanConstraint,
    restricted,
)
from grit_integrations.engine.detokenizer import Detokenizer
from grit_integrations.engine.prefill import Prefill, Reading
from grit_integrations.engine.sampling import logits_processors, random_generator
from grit_integrations.kv.reuse import Reuse
from grit_integrations.loading.weights import Weights
from grit_integrations.options import Decoding, Quoting
from grit_integrations.prompts.tokenizer import PromptTokenizer
from grit_integrations.quoting.best_sentence import SentenceSearch
from grit_integrations.quoting.best_span import SpanSearch
from grit_integrations.quoting.branches import Branch, TreeReader, check_kernel
from grit_integrations.quoting.spans import Place, Spans
from grit_integrations.results import FinishReason, Generation, GenerationChunk, Quote, Timings, TokenLogprob, Usage

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


class TextSource(Protocol):
    """Turns a row's tokens into text."""

    def push(self, token: int) -> str:
        """Return the text that can be shown now that `token` has come."""
        ...

    def flush(self) -> str:
        """Return what is left at the end."""
        ...


@dataclass(frozen=True, slots=True)
class _Search:
    """A search for the best quote, and what reads for it behind the row's prompt."""

    quotes: SpanSearch | SentenceSearch
    tree: TreeReader
    logits: Tensor  # behind the prompt, (1, vocab) float32


@dataclass(slots=True)
class Row:
    """One running generation: its prompt being read, its options, and what it has said so far."""

    reading: Reading
    decoding: Decoding
    spans: Spans | None
    constraint: Constraint | None
    processors: LogitsProcessorList
    generator: torch.Generator | None
    text: TextSource
    stop: StopText
    asked: float
    queued: float
    started: float
    first_token: float = 0.0
    prefilled: float = 0.0
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    held: float = 0.0  # log-probability of the tokens among those that the constraint allowed
    pieces: list[str] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    search: _Search | None = None
    quotes: tuple[Quote, ...] = ()


class Decoder:
    """Runs the causal language model for generations, each in a row with a cache of its own."""

    def __init__(self, weights: Weights, tokenizer: PromptTokenizer, prefill: Prefill) -> None:
        self._prefill = prefill
        self._weights = weights
        self._tokenizer = tokenizer
        self._backend = tokenizer.hf.backend_tokenizer
        self._end_ids = _end_ids(weights, tokenizer)
        self._letter = tokenizer.encode_texts(["a"])[0]

    def start(
        self,
        reuse: Reuse,
        decoding: Decoding,
        *,
        asked: float,
        queued: float,
        spans: Spans | None = None,
        permutation: Permutation | None = None,
    ) -> Row:
        """Return a row for a prompt; nothing is computed yet.

        Args:
            reuse: the prompt and the blocks of it that are stored.
            decoding: how tokens are chosen and when they end.
            spans: what may be quoted, if `decoding` asks for a quote; they hold none of its stop strings.
            permutation: what the text lists, and nothing else; `max_new_tokens` is at least its `longest`.
            asked: when the caller asked, a `time.perf_counter()` reading.
            queued: when the request came to the model's thread.

        Raises:
            OptionError: spans are to be scored, and the model's attention kernel takes no mask.
        """
        if decoding.quoting is not None and decoding.quoting.method != "tokens":
            check_kernel(self._weights)
        held = None if spans is None else SpanConstraint(spans, self._end_ids)
        listed = None if permutation is None else PermutationConstraint(permutation, self._end_ids)
        return Row(
            reading=self._prefill.begin(reuse, room=min(decoding.max_new_tokens, _RESERVE)),
            decoding=decoding,
            spans=spans,
            constraint=held or listed,
            processors=logits_processors(decoding),
            generator=random_generator(decoding, self._weights.device),
            text=held or Detokenizer(self._backend),
            stop=StopText(() if held or listed else decoding.stop),
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
        quoting = row.decoding.quoting
        if row.spans is not None and quoting is not None and quoting.method != "tokens":
            return self._search_step(row, row.spans, quoting)
        logits = self._logits(row)  # (1, vocab) float32
        token = self._choose(row, logits)
        logprobs = self._logprobs(row, logits, token)
        row.first_token = row.first_token or time.perf_counter()
        row.token_ids.append(token)
        row.logprobs += logprobs
        text = self._text(row, token) + self._settled(row)
        if row.finish_reason is None:
            return GenerationChunk(text, logprobs)
        if isinstance(row.constraint, SpanConstraint) and row.constraint.place is not None:
            row.quotes = (self._quote(row, row.constraint.place, row.held),)
        return GenerationChunk(text, logprobs, self._finish(row))

    def _search_step(self, row: Row, spans: Spans, quoting: Quoting) -> GenerationChunk | None:
        """Read one chunk of what may be quoted; when the best is known, return it."""
        if row.search is None:
            logits, room = self._logits(row), row.decoding.max_new_tokens
            kind, longest = (
                (SpanSearch, min(quoting.longest, room)) if quoting.method == "spans" else (SentenceSearch, room)
            )
            search = kind(spans, self._end_ids, longest=longest, length_penalty=quoting.length_penalty, logits=logits)
            row.search = _Search(search, self._prefill.tree(row.reading.cache), logits)
            return None
        branches = row.search.quotes.next_branches()
        if branches:
            row.search.quotes.take(row.search.tree.read(branches))
            return None
        return self._best_quote(row, row.search)

    def _best_quote(self, row: Row, search: _Search) -> GenerationChunk:
        best = search.quotes.best
        assert best is not None, "the documents have a word, which was checked when the spans were made"
        if row.decoding.logprobs is not None:
            (behind,) = search.tree.read([Branch(best.ids)])
            rows = torch.split(torch.cat([search.logits, behind]), 1)
            for logits, token in zip(rows, (*best.ids, self._tokenizer.eos_id), strict=True):
                row.logprobs += self._logprobs(row, logits, token)
        row.token_ids = [*best.ids, self._tokenizer.eos_id]
        row.quotes = (self._quote(row, best.place, best.logprob),)
        row.pieces = [row.quotes[0].text]
        row.first_token, row.finish_reason = time.perf_counter(), "length" if best.cut_short else "stop"
        return GenerationChunk(row.quotes[0].text, tuple(row.logprobs), self._finish(row))

    def _quote(self, row: Row, place: Place, logprob: float) -> Quote:
        assert row.spans is not None and row.decoding.quoting is not None
        place = row.spans.first(place)
        text = row.spans.documents[place.document][place.start : place.end]
        said = sum(token not in self._end_ids for token in row.token_ids)
        score = logprob / said**row.decoding.quoting.length_penalty
        picked = row.spans.region(place) if row.decoding.quoting.sentences else None
        within = None if picked is None else (picked.start, picked.end)
        return Quote(text, place.document, place.start, place.end, score, within)

    def _logits(self, row: Row) -> Tensor:
        if row.token_ids:
            read = row.reading.cache.get_seq_length() - len(row.reading.reuse.plan)
            return self._prefill.logits(row.reading.cache, tuple(row.token_ids[read:]))
        logits = self._prefill.last_logits(row.reading)
        row.prefilled = time.perf_counter()
        self._prefill.keep_suffix(row.reading)
        return logits

    def _choose(self, row: Row, logits: Tensor) -> int:
        if row.constraint is None:
            return self._sample(row, logits)
        room = row.decoding.max_new_tokens - len(row.token_ids)
        logits = restricted(logits, row.constraint.allowed(room))
        token = self._sample(row, logits)
        row.constraint.advance(token)
        row.held += float(torch.log_softmax(logits[0], dim=-1)[token])
        return token

    def _settled(self, row: Row) -> str:
        """Say what the list leaves no choice about. It is read together with the next token that was chosen."""
        text = ""
        while isinstance(row.constraint, PermutationConstraint) and row.finish_reason is None:
            allowed = row.constraint.allowed(row.decoding.max_new_tokens - len(row.token_ids))
            if len(allowed) > 1:
                break
            row.constraint.advance(allowed[0])
            row.token_ids.append(allowed[0])
            text += self._text(row, allowed[0])
        return text

    def _sample(self, row: Row, logits: Tensor) -> int:
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
            row.finish_reason = "length" if row.constraint is not None and row.constraint.cut_short else "stop"
            shown = row.stop.push(row.text.flush()) + row.stop.flush()
        else:
            shown = row.stop.push(row.text.push(token))
            if row.stop.found:
                row.finish_reason = "stop"
            elif len(row.token_ids) == row.decoding.max_new_tokens:
                row.finish_reason = "length"
                shown += row.stop.push(row.text.flush()) + row.stop.flush()
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
            quotes=row.quotes,
        )

    def _piece(self, token: int) -> str:
        """Return the text of one token inside a text, with its leading space."""
        before = self._backend.decode(self._letter)
        return str(self._backend.decode([*self._letter, token], skip_special_tokens=False)[len(before) :])


def _end_ids(weights: Weights, tokenizer: PromptTokenizer) -> frozenset[int]:
    configured = getattr(weights.lm.generation_config, "eos_token_id", None)
    extra = configured if isinstance(configured, list) else [configured]
    return frozenset([tokenizer.eos_id, *(int(token) for token in extra if token is not None)])
