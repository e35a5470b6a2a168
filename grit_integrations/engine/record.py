"""What a generation has said so far and what it took, and the `Generation` that comes of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grit_integrations.results import Generation, Timings, TokenLogprob, Usage

if TYPE_CHECKING:
    from grit_integrations.engine.prefill import Reading
    from grit_integrations.options import Decoding
    from grit_integrations.prompts.tokenizer import PromptTokenizer
    from grit_integrations.results import FinishReason


@dataclass(slots=True, kw_only=True)
class GenerationRecord:
    """One running generation, as far as its result needs it.

    Attributes:
        reading: its prompt, being read.
        decoding: its options.
        asked: when the caller asked, a `time.perf_counter()` reading as all times here.
        queued: when the request came to the model's thread.
        started: when work on it began.
        prefilled: when its prompt had been read.
        first_token: when its first token was there.
        token_ids: what it has said.
        pieces: the same as text.
        logprobs: of the tokens, if they are wanted.
    """

    reading: Reading
    decoding: Decoding
    asked: float
    queued: float
    started: float = field(default_factory=time.perf_counter)
    prefilled: float = 0.0
    first_token: float = 0.0
    token_ids: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def generation(self, finish_reason: FinishReason) -> Generation:
        """Return the finished generation."""
        end = time.perf_counter()
        reading, reuse = self.reading, self.reading.reuse
        timings = Timings(
            queue=self.started - self.queued,
            load=reuse.load_seconds + reading.place_seconds,
            prefill=self.prefilled - self.started - reading.place_seconds,
            time_to_first_token=self.first_token - self.asked,
            decode=end - self.first_token,
        )
        return Generation(
            text="".join(self.pieces),
            token_ids=tuple(self.token_ids),
            finish_reason=finish_reason,
            usage=Usage(len(reuse.plan), len(self.token_ids), reuse.read_tokens, reuse.created_tokens),
            timings=timings,
            cache=reuse.report(),
            logprobs=tuple(self.logprobs),
        )

    def note_logprob(self, tokenizer: PromptTokenizer, logits: Tensor, token: int) -> tuple[TokenLogprob, ...]:
        """Take down a token's log-probability if it is wanted, and return what was taken down.

        Args:
            tokenizer: the model's.
            logits: what the token was chosen from, (1, vocab) float32.
            token: the one chosen.
        """
        wanted = self.decoding.logprobs
        if wanted is None:
            return ()
        scores = torch.log_softmax(logits[0], dim=-1)
        top = torch.topk(scores, min(wanted, scores.numel())) if wanted else None
        pairs = () if top is None else tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))
        alternatives = tuple((tokenizer.piece(index), value) for index, value in pairs)
        noted = TokenLogprob(tokenizer.piece(token), token, float(scores[token]), alternatives)
        self.logprobs.append(noted)
        return (noted,)
