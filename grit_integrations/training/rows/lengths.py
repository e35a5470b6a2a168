"""How many rows a recipe's lengths cut, said before training starts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from grit_integrations.evaluation.labelled_texts import PromptEncoder
from grit_integrations.training.config import TrainConfig
from grit_integrations.training.rows.row_files import RowFile

logger = logging.getLogger(__name__)

LOOKED_AT = 200  # rows of each file


def warn_of_cuts(
    config: TrainConfig, pairs: Sequence[RowFile[Any]], texts: Sequence[RowFile[Any]], encoder: PromptEncoder
) -> None:
    """Log, for every file, how many of some rows are longer than the recipe lets them be."""
    data = config.data
    for file in pairs:
        rows = _some(file)
        queries, passages = [row.query for row in rows], [text for row in rows for text in row.positives]
        _warn(file, "queries", encoder.texts(queries), data.query_tokens, "data.query_tokens")
        _warn(file, "positives", encoder.texts(passages), data.passage_tokens, "data.passage_tokens")
    for file in texts:
        _warn(
            file, "texts", [encoder.conversation(row)[0] for row in _some(file)], data.text_tokens, "data.text_tokens"
        )


def _some(file: RowFile[Any]) -> list[Any]:
    return [file[index] for index in range(0, len(file), -(-len(file) // LOOKED_AT))]


def _warn(file: RowFile[Any], what: str, ids: Sequence[Sequence[int]], limit: int, key: str) -> None:
    long = [len(each) for each in ids if len(each) > limit]
    if long:
        logger.warning(
            "%s: %d of %d %s looked at are longer than %s = %d tokens (the longest has %d) and are cut.",
            *(file.path.name, len(long), len(ids), what, key, limit, max(long)),
        )
