"""What the tests of reranking judge, and how they read raw scores."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from grit_integrations import GritLM
from grit_integrations.options import Order

WORDS = ["The", "heart", "pumps", "blood", "stars", "burn", "12.5", "über", "你好", "mill,", "(see", "hill)", "\n", "a"]
QUERY = "What pumps the blood?"
PASSAGES = [
    "The heart pumps blood through the vessels of the body. " * 4,
    "Stars burn hydrogen for billions of years until it runs out. " * 5,
    "Snow is cold.",
    "The mill stands by the hill, and its sails turn in the wind. " * 2,
]

Make = Callable[..., GritLM]


def logits(grit: GritLM, query: str, passages: Sequence[str], order: Order, **options: Any) -> list[float]:
    """Return the raw scores in the order of the passages."""
    found = {each.index: each.score for each in grit.rerank(query, passages, order=order, score="logit", **options)}
    return [found[index] for index in range(len(passages))]


def some_text(rng: random.Random, longest: int) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, longest))) + " end"


def write_order(places: Sequence[int]) -> str:
    """Return an order of passages as the text that a model is to write: `[2] > [1] > [3]`."""
    return " > ".join(f"[{place + 1}]" for place in places)
