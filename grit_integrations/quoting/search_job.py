"""The best quote found by reading what may be quoted behind the prompt, a few branches a step."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grit_integrations.engine.generate_job import ChunksJob
from grit_integrations.engine.record import GenerationRecord
from grit_integrations.loading.kernels import check_takes_masks
from grit_integrations.quoting.best_sentence import SentenceSearch
from grit_integrations.quoting.best_span import SpanSearch
from grit_integrations.quoting.branches import Branch, TreeReader
from grit_integrations.quoting.constraint import quote_at
from grit_integrations.results import GenerationChunk

if TYPE_CHECKING:
    from grit_integrations.engine.engine import Engine
    from grit_integrations.kv.reuse import Reuse
    from grit_integrations.options import Decoding, Quoting
    from grit_integrations.quoting.spans import Spans


@dataclass(frozen=True, slots=True)
class _Search:
    """A search for the best quote, and what reads for it behind the prompt."""

    quotes: SpanSearch | SentenceSearch
    tree: TreeReader
    logits: Tensor  # behind the prompt, (1, vocab) float32


class QuoteSearchJob(ChunksJob):
    """Reads a prompt, then what may be quoted, until the best quote is known; its only chunk is that.

    Args:
        engine: the model.
        reuse: the prompt and the blocks of it that are stored.
        decoding: how many tokens the answer may have, and which log-probabilities are wanted.
        quoting: how quotes are found and weighed; its method is not `"tokens"`.
        spans: what may be quoted.
        asked: when the caller asked, a `time.perf_counter()` reading.

    Raises:
        OptionError: the model's attention kernel takes no mask.
    """

    def __init__(
        self, engine: Engine, reuse: Reuse, decoding: Decoding, quoting: Quoting, spans: Spans, *, asked: float
    ) -> None:
        check_takes_masks(engine.weights.lm)
        super().__init__()
        self._engine, self.reuse, self.decoding = engine, reuse, decoding
        self._quoting, self._spans, self._asked = quoting, spans, asked
        self._record: GenerationRecord | None = None
        self._search: _Search | None = None

    def next_chunk(self) -> GenerationChunk | None:
        """Read a block of the prompt, or a few branches of what may be quoted; at the end return the best quote."""
        record = self._record = self._record or self._begun()
        if not record.reading.done:
            self._engine.prefill.advance(record.reading)
            if not record.reading.done:
                return None
        if self._search is None:
            self._search = self._begin_search(record)
            return None
        branches = self._search.quotes.next_branches()
        if not branches:
            return self._best(record, self._search)
        self._search.quotes.take(self._search.tree.read(branches))
        return None

    def _begun(self) -> GenerationRecord:
        reading = self._engine.prefill.begin(self.reuse, room=0)
        return GenerationRecord(reading=reading, decoding=self.decoding, asked=self._asked, queued=self.queued)

    def _begin_search(self, record: GenerationRecord) -> _Search:
        prefill, quoting, room = self._engine.prefill, self._quoting, self.decoding.max_new_tokens
        logits = prefill.last_logits(record.reading)
        record.prefilled = time.perf_counter()
        prefill.keep_suffix(record.reading)
        kind, longest = (
            (SpanSearch, min(quoting.longest, room)) if quoting.method == "spans" else (SentenceSearch, room)
        )
        search = kind(
            self._spans,
            self._engine.decoder.end_ids,
            longest=longest,
            length_penalty=quoting.length_penalty,
            logits=logits,
        )
        return _Search(search, TreeReader(self._engine.weights, record.reading.cache), logits)

    def _best(self, record: GenerationRecord, search: _Search) -> GenerationChunk:
        best = search.quotes.best
        assert best is not None, "the documents have a word, which was checked when the spans were made"
        eos = self._engine.checkpoint.tokenizer.eos_id
        self._note_logprobs(record, search, (*best.ids, eos))
        record.token_ids = [*best.ids, eos]
        quote = quote_at(self._spans, best.place, self._quoting, best.logprob, len(best.ids))
        record.pieces, record.first_token = [quote.text], time.perf_counter()
        generation = replace(record.generation("length" if best.cut_short else "stop"), quotes=(quote,))
        return GenerationChunk(quote.text, generation.logprobs, generation)

    def _note_logprobs(self, record: GenerationRecord, search: _Search, ids: tuple[int, ...]) -> None:
        if self.decoding.logprobs is None:
            return
        (behind,) = search.tree.read([Branch(ids[:-1])])
        rows = torch.split(torch.cat([search.logits, behind]), 1)
        for logits, token in zip(rows, ids, strict=True):
            record.note_logprob(self._engine.checkpoint.tokenizer, logits, token)
