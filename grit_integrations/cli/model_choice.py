"""Which model a command uses, and how grit-mini is used differently from others."""

from __future__ import annotations

from pathlib import Path

from grit_integrations.ingest import PassageIndex
from grit_integrations.ingest.index_card import read_card
from grit_integrations.loading.sources import BUNDLED, BUNDLED_NAME
from grit_integrations.model import GritLM
from grit_integrations.options import Quoting

# What grit-mini answers best with (its model card): the two neighbouring sentences that are nearest to the question.
QUOTING = Quoting(method="sentences", sentences=1, neighbours=2)

QUOTES_NOTE = "grit-mini answers with sentences of the passages; --free lets it write."


def load_model(name: str | None, device: str | None) -> GritLM:
    """Return the model that a command names, grit-mini if none; its weights are read when they are needed."""
    return GritLM(name or BUNDLED_NAME, device=device)


def model_for_store(store: Path, name: str | None, device: str | None) -> GritLM:
    """Return the model that a command names, else the one that made the index, else grit-mini."""
    card = None if name else read_card(store)
    return load_model(card["origin"]["model"] if card else name, device)


def open_index(store: Path, name: str | None, device: str | None) -> PassageIndex:
    """Return an existing index with its model.

    Raises:
        IngestError: there is none.
        CollectionMismatchError: another model than `name` made it.
    """
    return PassageIndex(store, model_for_store(store, name, device))


def is_bundled(grit: GritLM) -> bool:
    """Whether this is grit-mini, however it was named."""
    return grit.source == BUNDLED_NAME or Path(grit.source).resolve() == BUNDLED
