"""How many rows a recipe's lengths cut, said before training starts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from grit_integrations.evaluation.labelled_texts import PromptEncoder
from grit_integrations.training.config import TrainConfig
from grit_integrations.training.rows.row_files import RowFile
from grit_integrations.training.rows.stream import file_weight

logger = logging.getLogger(__name__)

LOOKED_AT = 200  # rows of each file

Files = Sequence[RowFile[Any]]
Tokens = Sequence[Sequence[int]]


def warn_of_cuts(config: TrainConfig, pairs: Files, texts: Files, encoder: PromptEncoder) -> None:
    """Log, for every length of the recipe, how many of some rows of the files that it draws from are longer."""
    data = config.data
    pairs, texts = _drawn(pairs, data.embedding_weights), _drawn(texts, data.generative_weights)

    def passages(rows: Sequence[Any]) -> Tokens:
        return encoder.texts([text for row in rows for text in row.positives])

    _warn("queries", pairs, lambda rows: encoder.texts([r.query for r in rows]), data.query_tokens, "data.query_tokens")
    _warn("positives", pairs, passages, data.passage_tokens, "data.passage_tokens")
    _warn("texts", texts, lambda rows: [encoder.conversation(r)[0] for r in rows], data.text_tokens, "data.text_tokens")


def _drawn(files: Files, weights: Mapping[str, float]) -> list[RowFile[Any]]:
    return [file for file in files if file_weight(file.name, weights)]


def _some(file: RowFile[Any]) -> list[Any]:
    return [file[index] for index in range(0, len(file), -(-len(file) // LOOKED_AT))]


def _warn(what: str, files: Iterable[RowFile[Any]], read: Callable[[list[Any]], Tokens], limit: int, key: str) -> None:
    looked_at, long = 0, list[tuple[int, str]]()
    for file in files:
        lengths = [len(ids) for ids in read(_some(file))]
        looked_at += len(lengths)
        long += [(length, file.path.name) for length in lengths if length > limit]
    if long:
        logger.warning(
            "%d of %d %s looked at are longer than %s = %d tokens and are cut (the longest, in %s, has %d).",
            *(len(long), looked_at, what, key, limit, max(long)[1], max(long)[0]),
        )
