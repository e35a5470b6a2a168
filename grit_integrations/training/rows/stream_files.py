"""The files of every stream of a recipe, opened and checked before anything else is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grit_integrations.errors import DataError
from grit_integrations.evaluation.row_kinds import Pair, TextRow, parse_pair, parse_text
from grit_integrations.training.config import TrainConfig
from grit_integrations.training.rows.question_rows import QuestionRow, parse_question
from grit_integrations.training.rows.row_files import AnyRow, FileContent, RowFile, open_files, open_mixed, row_files

TOKENIZER_TEXTS = 80_000  # about as many texts and queries make a new tokenizer


@dataclass(frozen=True, slots=True)
class StreamFiles:
    """The opened rows of all streams."""

    pairs: list[RowFile[Pair]]
    texts: list[RowFile[TextRow]]
    reranking: list[RowFile[Pair]]
    rag: list[RowFile[QuestionRow]]

    def contents(self) -> dict[str, FileContent]:
        """Return what every file holds, by stream and name."""
        streams: dict[str, Sequence[RowFile[Any]]]
        streams = {"embedding": self.pairs, "generative": self.texts, "reranking": self.reranking, "rag": self.rag}
        return {f"{name}/{file.path.name}": file.content for name, files in streams.items() for file in files}

    def tokenizer_texts(self) -> list[str]:
        """Return last turns and queries, evenly from all files: what a new tokenizer is learned from."""
        step = (sum(map(len, self.texts)) + sum(map(len, self.pairs))) // TOKENIZER_TEXTS
        return [row.turns[-1] for row in _spread(self.texts, step)] + [row.query for row in _spread(self.pairs, step)]

    def documents(self, count: int) -> list[str]:
        """Return about `count` first turns, evenly from all files of texts; without any, passages."""
        if self.texts:
            return [row.turns[0] for row in _spread(self.texts, sum(map(len, self.texts)) // count)]
        return [row.positives[0] for row in _spread(self.pairs, sum(map(len, self.pairs)) // count)]


def _spread(files: Sequence[RowFile[AnyRow]], step: int) -> list[AnyRow]:
    """Return every `step`-th row of each file."""
    return [file[index] for file in files for index in range(0, len(file), max(1, step))]


def open_data(config: TrainConfig) -> StreamFiles:
    """Open and check every row of the recipe's data: a folder per stream, or one folder with files of both streams.

    Raises:
        DataError: a wrong row, by file and line; a stream of the recipe without rows.
    """
    folder = Path(config.data.data)
    pairs, texts = folder / config.data.embedding, folder / config.data.generative
    ranked = open_files(folder / config.reranking.folder, parse_pair) if config.reranking else []
    asked = open_files(folder / config.rag.folder, parse_question) if config.rag else []
    wanted = {"pairs": config.embedding_weight > 0 or config.bag_steps > 0, "texts": config.generative_weight > 0}
    if folder.is_dir() and not pairs.is_dir() and not texts.is_dir() and row_files(folder):
        found = StreamFiles(*open_mixed(folder), ranked, asked)
        for name, rows in (("pairs", found.pairs), ("texts", found.texts)):
            if wanted[name] and not rows:
                raise DataError(f"{folder} has no file of {name}, which a stream of the recipe needs. Add one.")
        return found
    return StreamFiles(
        open_files(pairs, parse_pair) if wanted["pairs"] or pairs.is_dir() else [],
        open_files(texts, parse_text) if wanted["texts"] or texts.is_dir() else [],
        ranked,
        asked,
    )
