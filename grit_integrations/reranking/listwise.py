"""Passages put in order by an answer such as `[2] > [1] > [3]`, a window at a time (RankGPT, arXiv 2304.09542).

Nothing but an order of the window's passages can come out: the decoder is held to it, and what it says is read by the
parser that would put any other text right.
"""

from __future__ import annotations

import logging
import math
import time
from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING

from grit_integrations.engine.generate_job import GenerateJob
from grit_integrations.engine.streaming import GenerationStream
from grit_integrations.errors import ContextOverflowError, RerankError
from grit_integrations.options import Decoding
from grit_integrations.prompts.plan import plan_prompt
from grit_integrations.reranking.order_constraint import OrderConstraint
from grit_integrations.reranking.permutations import listing, read_order, windows
from grit_integrations.reranking.wording import ranking_parts

if TYPE_CHECKING:
    from grit_integrations.engine.session import Session
    from grit_integrations.options import Reranking
    from grit_integrations.prompts.plan import Plan
    from grit_integrations.prompts.tokenizer import PromptTokenizer
    from grit_integrations.results import Generation

logger = logging.getLogger(__name__)

_LEAST_SHARE = 8  # tokens of a passage below which a smaller window tells more


def places(session: Session, query: str, passages: Sequence[str], settings: Reranking) -> list[int]:
    """Return the places of `passages`, best first, as the model orders them in windows from the last to the first.

    Passages that do not fit into a prompt together share its room equally, with a warning. Where a share would be a few
    tokens only, windows have fewer passages.

    Args:
        session: asked once for each window of two passages or more, greedily.
        query: what the passages are compared by.
        passages: none of them blank.
        settings: window, step and the most tokens of a passage.

    Raises:
        ContextOverflowError: the query leaves no room for two passages.
        OptionError: the tokenizer does not tell the identifiers apart.
        RerankError: the model's scores are not numbers.
    """
    if len(passages) < 2:
        return list(range(len(passages)))
    texts = _Texts(session.tokenizer, session.window, query, passages, settings)
    size = texts.window_size
    step = max(1, settings.step * size // settings.window)
    ranking = list(range(len(passages)))
    for start, stop in windows(len(passages), size=size, step=min(step, size - 1)):
        shown = ranking[start:stop]
        ranking[start:stop] = [shown[place] for place in _order(session, texts.plan(shown), len(shown))]
    texts.report()
    return ranking


def _order(session: Session, plan: Plan, count: int) -> list[int]:
    """Return the order of a prompt's `count` passages that the model writes."""
    permutation = listing(session.tokenizer, count)
    decoding = Decoding(max_new_tokens=permutation.longest, logprobs=0)
    engine = session.engine
    # No other prompt begins with this query and these passages in this order: keeping it would only cost others' place.
    reuse = session.cache.reuse(plan, "off")
    constraint = OrderConstraint(permutation, engine.decoder.end_ids)
    job = GenerateJob(engine.decoder, reuse, decoding, asked=time.perf_counter(), constraint=constraint)
    generation = GenerationStream(engine.scheduler.submit(job).channel, engine).result()
    _check_scores(generation)
    return read_order(generation.text, count)


def _check_scores(generation: Generation) -> None:
    if any(math.isnan(token.logprob) for token in generation.logprobs):
        raise RerankError(
            "The model's scores of an order are not numbers in its precision. Load it with dtype='float32'."
        )


class _Texts:
    """A query and its passages as prompts that fit into the model's window.

    Args:
        tokenizer: the model's.
        window: the most tokens of a prompt and its answer.
        query: what the passages are compared by.
        passages: two or more.
        settings: the most passages of a window, and the most tokens of a passage.

    Raises:
        ContextOverflowError: the query leaves no room for two passages.
    """

    def __init__(
        self, tokenizer: PromptTokenizer, window: int, query: str, passages: Sequence[str], settings: Reranking
    ) -> None:
        tokenizer.check_length(query, window, "The query")
        self._tokenizer, self._window, self._query = tokenizer, window, query
        most = window if settings.passage_tokens is None else settings.passage_tokens
        # Of a text without end only what may be read is tokenised.
        self._passages = [tokenizer.first_tokens(tokenizer.cut(passage, most + 1), most) for passage in passages]
        self._lengths = [tokenizer.count(passage) for passage in self._passages]
        self._shortest = window  # tokens that a passage was cut to
        self.window_size = self._fitting(min(settings.window, len(passages)))

    def plan(self, shown: Sequence[int]) -> Plan:
        """Return the prompt that asks for the order of the passages `shown`, each with its share of the room."""
        room = self._room(len(shown))
        share = _share([self._lengths[index] for index in shown], room)
        while True:  # a text that was cut may be spelled in a few tokens more than it had
            plan = self._plan([self._tokenizer.first_tokens(self._passages[index], share) for index in shown])
            excess = len(plan) - (self._window - self._longest_answer(len(shown)))
            if excess <= 0:
                break
            share = max(0, share + -excess // len(shown))
        if share < max(self._lengths[index] for index in shown):
            self._shortest = min(self._shortest, share)
        return plan

    def report(self) -> None:
        """Warn if passages lost their end for lack of room."""
        if self._shortest < self._window:
            logger.warning(
                "Passages were cut, to %d tokens at the least: %d of them do not fit into the model's window of %d "
                "tokens together. Rerank with a smaller window=, or set passage_tokens.",
                self._shortest,
                self.window_size,
                self._window,
            )

    def _fitting(self, most: int) -> int:
        """Return the most passages, up to `most`, that have a share worth reading."""
        least = min(_LEAST_SHARE, max(self._lengths))
        sizes = range(2, most + 1)
        size = 1 + bisect_left(sizes, True, key=lambda count: self._room(count) < least * count)
        if size < 2:
            raise ContextOverflowError(
                f"The query leaves {max(0, self._room(2)):,} of the {self._window:,} tokens of the model's window for "
                f"passages; two of them need at least {2 * least}. Shorten the query."
            )
        return size

    def _room(self, count: int) -> int:
        """Return the tokens that `count` passages have together."""
        return self._window - self._longest_answer(count) - len(self._plan([""] * count))

    def _longest_answer(self, count: int) -> int:
        return listing(self._tokenizer, count).longest

    def _plan(self, passages: Sequence[str]) -> Plan:
        return plan_prompt(ranking_parts(self._query, passages, turns=self._tokenizer.format.turns), self._tokenizer)


def _share(lengths: Sequence[int], room: int) -> int:
    """Return the most tokens that each passage may have so that all fit; what short ones leave goes to the others.

    >>> _share([10, 500, 300], 410)
    200
    """
    left = len(lengths)
    for length in sorted(lengths):
        if length * left > room:
            return room // left
        room, left = room - length, left - 1
    return max(lengths)
