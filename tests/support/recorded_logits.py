"""Answers with the logits of every step beside them, compared to the bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from dense import dense_logits

from grit_integrations import Decoding, GritLM, KVCacheStore
from grit_integrations.options import Caching
from grit_integrations.prompts.formats import Messages
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


def assert_exact(
    grit: GritLM,
    folder: Path,
    messages: Messages,
    documents: Sequence[str] = (),
    *,
    caching: Caching,
    dense: bool = True,
) -> None:
    """A miss, a hit in memory, a hit on disk and one dense masked pass say the same; all but the last to the bit.

    The dense pass knows no sliding window.
    """
    options: dict[str, Any] = {"decoding": Decoding(max_new_tokens=3), "caching": caching}
    with KVCacheStore(folder) as store:
        miss = ask(grit, store, messages, documents, **options)
        hit = ask(grit, store, messages, documents, **options)
    with KVCacheStore(folder, ram_bytes=0) as store:
        from_disk = ask(grit, store, messages, documents, **options)
    assert miss[0].cache.hits == hit[0].cache.misses == 0 < hit[0].cache.hits
    for other in (hit, from_disk):
        assert_same(miss, other)
    if not dense:
        return
    wanted = dense_logits(grit.lm, grit.prompt(messages, documents, caching=caching).plan)
    assert float((miss[1][0][0] - wanted).abs().max()) < 1e-4 * max(1.0, float(wanted.abs().max()))
