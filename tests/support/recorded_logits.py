"""Answers with the logits of every step beside them, compared to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from grit_integrations import GritLM, KVCacheStore
from grit_integrations.results import Generation


@contextmanager
def recorded_logits(grit: GritLM) -> Iterator[list[torch.Tensor]]:
    """Collect the logits of every step while the block runs."""
    prefill = grit._loaded().prefill
    seen: list[torch.Tensor] = []
    original = prefill.logits

    def logits(*arguments: Any) -> torch.Tensor:
        result = original(*arguments)
        seen.append(result.clone())
        return result

    prefill.logits = logits  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        del prefill.logits


def ask(grit: GritLM, store: KVCacheStore | None, *args: Any, **options: Any) -> tuple[Generation, list[torch.Tensor]]:
    """Answer from `store`, and return every step's logits too."""
    with recorded_logits(grit) as logits:
        answer = grit.with_options(kv_store=store).generate(*args, **options)
    return answer, list(logits)


def assert_same(one: tuple[Generation, list[torch.Tensor]], other: tuple[Generation, list[torch.Tensor]]) -> None:
    assert one[0].token_ids == other[0].token_ids
    assert len(one[1]) == len(other[1]) > 0
    assert all(torch.equal(left, right) for left, right in zip(one[1], other[1], strict=True))
