"""Each passage judged by itself: one pass over query and passage, whose next token would be yes or no."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grit_integrations.engine.calls import wait
from grit_integrations.engine.verdicts import JudgeJob
from grit_integrations.errors import ContextOverflowError
from grit_integrations.progress import progress_bar
from grit_integrations.prompts.plan import plan_prompt
from grit_integrations.reranking.wording import verdict_ids, verdict_parts

if TYPE_CHECKING:
    from grit_integrations.engine.session import Session
    from grit_integrations.loading.checkpoint import Checkpoint
    from grit_integrations.options import Order, Reranking, Score
    from grit_integrations.prompts.plan import Plan

logger = logging.getLogger(__name__)


def scores(
    session: Session,
    query: str,
    passages: Sequence[str],
    settings: Reranking,
    *,
    cosines: Callable[[], Sequence[float]] | None = None,
    progress: bool | None = None,
) -> list[float]:
    """Return how relevant the model finds each passage.

    Blocks are looked up and kept as the session's caching says, and a stored one changes no score. A passage's score in
    different batches agrees to about 1e-5 in float32.

    Args:
        session: is asked.
        query: what the passages are judged by.
        passages: at least one, none of them blank.
        settings: the prompt's order, which score, and the most tokens of a passage.
        cosines: gives those of query and passages, for `settings.cosine`; called when all arguments are in order.
        progress: show a bar if it takes more than two seconds; `None` shows it on a terminal only.

    Raises:
        OptionError: a tokenizer without a token for yes and no, or an attention kernel without masks.
        ContextOverflowError: the query leaves no room for a passage.
    """
    wanted = verdict_ids(session.tokenizer)
    plans = _plans(session.checkpoint, query, passages, settings)
    engine = session.engine
    added = torch.zeros(len(plans)) if cosines is None else settings.cosine * torch.tensor(cosines())
    reuses = [session.cache.reuse(plan, session.settings.caching) for plan in plans]
    with progress_bar(total=len(plans), desc="Reranking", unit="passage", shown=progress) as bar:
        job = JudgeJob(engine.encoder, engine.prefill, reuses, wanted, on_progress=bar.update)
        logits = wait(engine.scheduler.submit(job).future)
    return as_scores(logits, settings.score, added)


def as_scores(logits: Tensor, score: Score, added: Tensor | float = 0.0) -> list[float]:
    """Return the scores that logits of yes and no give, (passages, 2) float32, when `added` is added to those of yes.

    >>> as_scores(torch.tensor([[2.0, 2.0]]), "probability"), as_scores(torch.tensor([[2.0, 1.0]]), "logit", 0.5)
    ([0.5], [2.5])
    """
    yes, no = logits.unbind(dim=1)
    yes = yes + added
    found: list[float] = (yes if score == "logit" else torch.sigmoid(yes - no)).tolist()
    return found


def trained_order(checkpoint: Checkpoint) -> Order:
    """Return the order of prompts that the checkpoint names in `grit_config.json`, or has, else the reference's."""
    verdict = checkpoint.tokenizer.format.verdict
    return checkpoint.grit_config.reranking_order or (verdict.order if verdict.prompt else "query-first")


def _plans(checkpoint: Checkpoint, query: str, passages: Sequence[str], settings: Reranking) -> list[Plan]:
    tokenizer, window = checkpoint.tokenizer, checkpoint.window
    order = settings.order or trained_order(checkpoint)
    tokenizer.check_length(query, window, "The query")
    words = len(plan_prompt(verdict_parts(query, "", order=order, prompts=tokenizer.format), tokenizer))
    if words >= window:
        raise ContextOverflowError(
            f"The query and the words around it have {words:,} tokens; the model's window of {window:,} has no room "
            "for a passage beside them. Shorten the query."
        )
    limit = min(window - words, settings.passage_tokens or window)
    plans, cut = [], 0
    for passage in passages:
        text, plan = _fitting(checkpoint, query, passage, order=order, limit=limit)
        plans.append(plan)
        cut += text != passage
    if cut and settings.passage_tokens is None:
        logger.warning(
            "%d of %d passages were cut to %d tokens, which fit into the model's window beside the query. Split them, "
            "or set passage_tokens.",
            cut,
            len(passages),
            limit,
        )
    return plans


def _fitting(checkpoint: Checkpoint, query: str, passage: str, *, order: Order, limit: int) -> tuple[str, Plan]:
    """Return the start of a passage that has at most `limit` tokens and fits into the window, and its prompt."""
    tokenizer, most = checkpoint.tokenizer, limit
    passage = tokenizer.cut(passage, limit + 1)  # of a text without end only what may be read is tokenised
    while True:  # a start may be spelled in a few tokens more than it had
        text = tokenizer.first_tokens(passage, most)
        plan = plan_prompt(verdict_parts(query, text, order=order, prompts=tokenizer.format), tokenizer)
        excess = max(tokenizer.count(text) - limit, len(plan) - checkpoint.window)
        if excess <= 0:
            return text, plan
        most = max(0, most - excess)
