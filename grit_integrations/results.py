"""What comes back from a call: plain values, no tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from grit_integrations.options import Caching

Vectors = npt.NDArray[np.float32]  # (texts, dim)
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A generated token's natural-log probability under the model, before sampling options, with alternatives."""

    token: str  # its text; not every token is a whole character
    token_id: int
    logprob: float
    alternatives: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one generation. The end-of-text token counts as generated.

    Attributes:
        prompt_tokens: tokens of the whole prompt, however they came into the cache.
        completion_tokens: tokens generated.
        cache_read_tokens: prompt tokens whose keys and values were read instead of computed.
        cache_creation_tokens: prompt tokens that were computed and kept for later prompts.
    """

    prompt_tokens: int
    completion_tokens: int
    cache_read_tokens: int = 0
    cache_creation_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall-clock seconds of one generation, measured where the work is done.

    Attributes:
        queue: waiting for the model.
        load: finding blocks in the store, reading them, and writing them into the request's cache.
        prefill: computing what of the prompt was not read.
        time_to_first_token: from the call to the first token, all of the above included.
        decode: from the first token to the last.
    """

    queue: float
    load: float
    prefill: float
    time_to_first_token: float
    decode: float


@dataclass(frozen=True, slots=True)
class CacheReport:
    """What the KV cache did for one generation.

    Attributes:
        mode: the caching mode.
        hits: blocks that were read.
        misses: blocks that were computed.
        declined: why blocks that were stored were computed all the same.
        bytes_read: bytes of the blocks that were read.
        seconds_saved: what computing the blocks would have taken at the speed measured here, less the time to load
            them; `None` while no speed is known.
    """

    mode: Caching
    hits: int = 0
    misses: int = 0
    declined: tuple[str, ...] = ()
    bytes_read: int = 0
    seconds_saved: float | None = None


@dataclass(frozen=True, slots=True)
class Quote:
    """A span of a document, word for word.

    Attributes:
        text: what is quoted: `documents[document][start:end]`.
        document: index into the documents that were given.
        start: its first character.
        end: the character behind its last.
        score: how good it is; of a generation, see `Quoting.length_penalty`; of a sentence, its nearness to the
            question.
        within: where the sentences begin and end that were picked for the quote, if some were (`Quoting.sentences`).
    """

    text: str
    document: int
    start: int
    end: int
    score: float
    within: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """A finished generation: its text, its tokens, why it ended, what it cost, and what it quotes."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    cache: CacheReport
    logprobs: tuple[TokenLogprob, ...] = ()
    quotes: tuple[Quote, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationChunk:
    """A piece of a stream. The last one has no text of its own left to add but carries the whole `generation`."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = field(default=())
    generation: Generation | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it adds nothing: text that may become a stop string is held back."""
        return not (self.text or self.logprobs or self.generation)


@dataclass(frozen=True, slots=True)
class Ranked:
    """A passage's place among those that were given, and how well it answers; higher is better."""

    index: int
    score: float
