"""What a reranking is asked for, and what comes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from grit_integrations.errors import OptionError
from grit_integrations.reranking.wording import ORDERS, Order

Method = Literal["pointwise", "listwise", "embedding"]
METHODS: tuple[Method, ...] = get_args(Method)
CANDIDATES = 20  # retrieved for a reranking if nobody says how many, as LangChain's searches for diversity do
Score = Literal["probability", "logit"]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A passage's place among those that were given, and how well it answers; higher is better."""

    index: int
    score: float


class RerankingOptions(TypedDict, total=False):
    """The keyword arguments of `Reranking`, all of them optional."""

    method: Method
    order: Order | None
    score: Score
    cosine: float
    passage_tokens: int | None
    window: int
    step: int
    instruction: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reranking:
    """How passages are put in order.

    Attributes:
        method: `"pointwise"` asks about each passage by itself whether it is relevant, one pass and no generation;
            `"listwise"` lets the model write an order, a window of passages at a time (RankGPT, arXiv 2304.09542);
            `"embedding"` compares vectors.
        order: what stands first in a pointwise prompt: `"query-first"`, the GritLM reference's words, is read once for
            all passages. `"passage-first"` and `"passage-block"` start from each passage's stored keys and values, as
            answers do with `caching="prefix"` and `"doc"`. By default the one that the checkpoint was trained for
            (`grit_config.json`), else `"query-first"`.
        score: of pointwise: `"probability"` is P(yes) among yes and no, in 0..1; `"logit"` is yes's raw logit, which
            the reference sorts by.
        cosine: of pointwise: so many times the cosine of query and passage is added to the score, before it becomes a
            probability. Vectors and verdicts err differently, so both together may order better than either; where no
            vectors are given, the passages are embedded for it.
        passage_tokens: what is longer loses its end; by default as many as fit into the window.
        window: passages in one listwise prompt.
        step: passages by which the window moves, from the last to the first.
        instruction: what the query is embedded under, for `"embedding"` and `cosine`.

    Raises:
        OptionError: a value that is none of these, or out of range.
    """

    method: Method = "pointwise"
    order: Order | None = None
    score: Score = "probability"
    cosine: float = 0.0
    passage_tokens: int | None = None
    window: int = 20
    step: int = 10
    instruction: str = ""

    @property
    def compares_vectors(self) -> bool:
        """Whether vectors have a part in the scores."""
        return self.method == "embedding" or self.cosine > 0

    def __post_init__(self) -> None:
        for name, known in (("method", METHODS), ("order", (None, *ORDERS)), ("score", get_args(Score))):
            if getattr(self, name) not in known:
                raise OptionError(
                    f"{name}={getattr(self, name)!r} is unknown. Use one of {', '.join(map(str, known))}."
                )
        if not math.isfinite(self.cosine) or self.cosine < 0 or (self.cosine and self.method != "pointwise"):
            raise OptionError(
                f"cosine={self.cosine} with method={self.method!r} is not possible. Give a number from 0 up, with "
                "method='pointwise'."
            )
        if self.passage_tokens is not None and self.passage_tokens < 1:
            raise OptionError(f"passage_tokens={self.passage_tokens} is too few. Give at least 1, or None for all.")
        if self.window < 2 or not 1 <= self.step < self.window:
            raise OptionError(
                f"window={self.window} and step={self.step}: a window has at least 2 passages and moves by 1 or more, "
                "but by fewer than it has. RankGPT uses 20 and 10."
            )


def in_order(scores: Sequence[float], *, top_n: int | None = None) -> list[Ranked]:
    """Return the places of `scores`, the best first, equal ones as they were; the first `top_n` of them.

    >>> in_order([0.1, 0.9, 0.1], top_n=2)
    [Ranked(index=1, score=0.9), Ranked(index=0, score=0.1)]
    """
    places = sorted(range(len(scores)), key=lambda index: -scores[index])
    return [Ranked(index, scores[index]) for index in places[:top_n]]
