"""`store.json`: what an index on disk says about itself, above all which model made its vectors."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grit_integrations.errors import IngestError
from grit_integrations.ingest.file_reader import read_bytes
from grit_integrations.ingest.found_files import is_utf8
from grit_integrations.ingest.splitter import PassageSplitter
from grit_integrations.ingest.write_lock import LOCK, writing_to
from grit_integrations.model import GritLM

if TYPE_CHECKING:
    from grit_integrations.chroma import VectorOrigin

FORMAT = 1

_CARD = "store.json"
_DRAFT = f"{_CARD}."  # what a run leaves that ends between writing the card and giving it its name


def read_card(directory: str | Path) -> dict[str, Any] | None:
    """Return what `store.json` says about an index, or `None` if nothing is there.

    Raises:
        IngestError: something else is there, or an index of a newer format.
    """
    directory = Path(directory)
    if not directory.exists():
        return None
    if not directory.is_dir():
        raise IngestError(f"{directory} is a file, not a store. Give a directory.")
    if not (directory / _CARD).exists():
        if any(entry.name != LOCK and not entry.name.startswith(_DRAFT) for entry in directory.iterdir()):
            raise IngestError(f"{directory} is not empty and holds no store. Give another directory.")
        return None
    try:
        card = json.loads(read_bytes(directory / _CARD))
    except (IngestError, ValueError, RecursionError) as error:
        raise IngestError(f"{directory / _CARD} cannot be read ({error}). Delete the store and index again.") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        found = card.get("format") if isinstance(card, dict) else None
        raise IngestError(
            f"The store at {directory} has the format {found!r}; this version reads {FORMAT}. Use the version that "
            "made it, or index into another directory."
        )
    if not (isinstance(card.get("origin"), dict) and isinstance(card["origin"].get("model"), str)):
        raise IngestError(f"{directory / _CARD} does not name a model. Delete the store and index again.")
    if not isinstance(card.get("passage_tokens"), int):
        raise IngestError(f"{directory / _CARD} does not name a passage size. Delete the store and index again.")
    return card


def write_card(directory: Path, card: dict[str, Any]) -> None:
    """Write `store.json`, whole or not at all."""
    draft = directory / f"{_DRAFT}{os.getpid()}"
    try:
        draft.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        draft.replace(directory / _CARD)
    finally:
        draft.unlink(missing_ok=True)


def create_card(directory: Path, model: GritLM, passage_tokens: int) -> dict[str, Any]:
    """Make the directory of a new index, write its card there and return it; or that of one made in the meantime.

    Raises:
        IngestError: another process is making one there.
        OptionError: passages of that size are not possible with this model; nothing was written.
    """
    from grit_integrations.chroma import VectorOrigin

    PassageSplitter(model, passage_tokens)  # refuse an impossible size before anything is written
    card = {"format": FORMAT, "origin": asdict(VectorOrigin.of(model)), "passage_tokens": passage_tokens}
    if not is_utf8(directory):
        raise IngestError(f"The name of the directory {directory} is not UTF-8, which sqlite and Chroma cannot open.")
    directory.mkdir(parents=True, exist_ok=True)
    with writing_to(directory):
        made = read_card(directory)
        if made is None:
            write_card(directory, card)
    return made or card


def check_origin(card: dict[str, Any], model: GritLM, directory: Path) -> None:
    """Refuse a model that did not make the index.

    Raises:
        CollectionMismatchError: another model made it; the message has both fingerprints.
        IngestError: the card does not name a model.
    """
    from grit_integrations.chroma import VectorOrigin

    try:
        origin: VectorOrigin = VectorOrigin(**card["origin"])
    except (KeyError, TypeError) as error:
        raise IngestError(
            f"{directory / _CARD} does not name a model ({error}). Delete the store and index again."
        ) from error
    origin.check(VectorOrigin.of(model), f"The store at {directory}")
