"""Fixed triples: what says the same must lie nearer than what says something else."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from grit_integrations.evaluation.intervals import mean_interval
from grit_integrations.evaluation.phrases import INSTRUCTIONS
from grit_integrations.evaluation.report import Figures, Table, share

if TYPE_CHECKING:
    from grit_integrations.model import GritLM

_FILE = Path(__file__).with_name("triples.json")


@dataclass(frozen=True, slots=True)
class Triple:
    """A text, one that says nearly the same or answers it, and one about something else."""

    anchor: str
    similar: str
    dissimilar: str


def load_triples() -> list[Triple]:
    """Return the triples of this package."""
    return [Triple(**row) for row in json.loads(_FILE.read_text(encoding="utf-8"))]


def triple_figures(grit: GritLM, *, seed: int) -> Figures:
    """Return how often the similar text lies nearer, the anchor embedded as a document and as an instructed query."""
    triples = load_triples()
    anchors = [triple.anchor for triple in triples]
    near = grit.embed_documents([triple.similar for triple in triples], progress=False)
    far = grit.embed_documents([triple.dissimilar for triple in triples], progress=False)
    sides = {
        "document": grit.embed_documents(anchors, progress=False),
        "query": grit.embed_queries(anchors, instruction=INSTRUCTIONS["question"], progress=False),
    }
    margins = {side: ((near - far) * own).sum(axis=1) for side, own in sides.items()}  # (triples,)
    return {
        side: {
            "triples": len(triples),
            "similar nearer": asdict(mean_interval((margin > 0).astype(np.float64), seed=seed)),
            "mean margin": float(margin.mean()),
            "failed": [triple.anchor for triple, ahead in zip(triples, margin, strict=True) if ahead <= 0],
        }
        for side, margin in margins.items()
    }


def triple_table(figures: Figures) -> Table:
    """Lay out both sides."""
    rows = tuple(
        (side, str(found["triples"]), share(found["similar nearer"], interval=True), f"{found['mean margin']:.3f}")
        for side, found in figures.items()
    )
    header = ("anchor embedded as", "triples", "similar nearer", "mean margin of cosines")
    return Table("Embedding: similar above dissimilar", header, rows, labels=1)
