"""How well a model predicts held-out text and held-out responses, in nats per token.

Measured on the weights themselves (`GritLM.lm`) with the prompts and labels of training: plain text is predicted whole,
of a conversation only the responses and the end of text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from grit_integrations.evaluation.intervals import ratio_interval
from grit_integrations.evaluation.labelled_texts import PromptEncoder
from grit_integrations.evaluation.nats import summed_nats
from grit_integrations.evaluation.report import Figures, Table, share
from grit_integrations.evaluation.row_kinds import TextRow

if TYPE_CHECKING:
    from grit_integrations.model import GritLM

LONGEST = 512  # tokens; what is longer is cut as in training


def perplexity_figures(
    grit: GritLM,
    kinds: Mapping[str, Sequence[TextRow]],
    *,
    seed: int,
    advance: Callable[[int], Any] = lambda count: None,
) -> Figures:
    """Return nats per predicted token of each kind of text, rows being resampled; `None` where nothing is predicted."""
    encoder = PromptEncoder(grit.checkpoint.tokenizer.hf, grit.checkpoint.tokenizer.format)
    longest = min(LONGEST, grit.window)
    figures: Figures = {}
    for kind, texts in kinds.items():
        sums = []
        for text in texts:
            sums.append(summed_nats(grit.lm, encoder, [text], longest=longest))
            advance(1)
        nats, tokens = np.array(sums, dtype=np.float64).T
        estimate = ratio_interval(nats, tokens, seed=seed)
        found = None if estimate is None else asdict(estimate)
        figures[kind] = {"rows": len(texts), "tokens": int(tokens.sum()), "nats per token": found}
    return figures


def perplexity_table(figures: Figures) -> Table:
    """Lay out nats and their exponential."""
    rows = tuple(_row(kind, found) for kind, found in figures.items())
    return Table("Held-out text", ("text (rows)", "predicted tokens", "nats per token", "perplexity"), rows, labels=1)


def _row(kind: str, found: Figures) -> tuple[str, ...]:
    nats = found["nats per token"]
    cells = ("", "") if nats is None else (share(nats, interval=True), f"{math.exp(nats['value']):,.1f}")
    return (f"{kind} ({found['rows']})", f"{found['tokens']:,}", *cells)
