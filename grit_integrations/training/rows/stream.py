"""The order of rows: batches that depend on files, plan and seed alone, so that a resumed run repeats them."""

from __future__ import annotations

import fnmatch
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from grit_integrations.errors import DataError
from grit_integrations.training.rows.row_files import AnyRow, RowFile

POOL_BATCHES = 16  # rows are sorted by length inside pools of about this many batches
CHARACTERS_PER_TOKEN = 4  # a guess that only shapes batches


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How to cut batches: a budget of padded tokens, a bound on rows, and whether a batch stays in one file."""

    tokens: int
    longest: int  # tokens a row is cut to
    rows: int
    same_file: bool
    least: int = 1  # rows; smaller batches, what is left at the end of a pool, are left out


@dataclass(frozen=True, slots=True)
class Position:
    """Where a stream stands: what a checkpoint keeps of the data order."""

    epoch: int = 0
    batch: int = 0


class Stream(Generic[AnyRow]):
    """An endless stream of batches whose order depends on nothing but the files, the plan and the seed."""

    def __init__(
        self, files: Sequence[RowFile[AnyRow]], plan: BatchPlan, *, weights: Mapping[str, float], seed: int | str
    ) -> None:
        self._files = files
        self._plan = plan
        self._seed = seed
        self._weights = [file_weight(file.name, weights) for file in files]
        if not any(self._weights):
            raise DataError("The weights leave out every file of a stream. Give at least one file a weight above 0.")
        self.position = Position()
        self._order: list[list[tuple[int, int]]] = []

    def __next__(self) -> list[AnyRow]:
        """Return the next batch and move on."""
        if not self._order:
            self._order = self._epoch(self.position.epoch)
        if not self._order:
            raise DataError(
                f"No batch of {', '.join(file.path.name for file in self._files)} has the {self._plan.least} rows that "
                "it needs. Add rows, raise the tokens per batch, or use fewer processes."
            )
        batch = self._order[self.position.batch]
        if self.position.batch + 1 < len(self._order):
            self.position = Position(self.position.epoch, self.position.batch + 1)
        else:
            self.position, self._order = Position(self.position.epoch + 1, 0), []
        return [self._files[file][row] for file, row in batch]

    def seek(self, position: Position) -> None:
        """Continue from a position that `position` gave."""
        self.position, self._order = position, []

    def rng(self, purpose: str) -> random.Random:
        """Return a random source for the next batch, the same whenever the stream stands there."""
        name = f"{self._seed}:{purpose}:{self.position.epoch}:{self.position.batch}"
        return random.Random(name)  # noqa: S311  # data order, not secrets

    def _epoch(self, epoch: int) -> list[list[tuple[int, int]]]:
        rng = random.Random(f"{self._seed}:{epoch}")  # noqa: S311  # data order, not secrets
        chosen = [self._choose(index, rng) for index in range(len(self._files))]
        pools = chosen if self._plan.same_file else [[row for rows in chosen for row in rows]]
        batches = [batch for pool in pools for batch in self._cut(pool, rng) if len(batch) >= self._plan.least]
        rng.shuffle(batches)
        return batches

    def _choose(self, index: int, rng: random.Random) -> list[tuple[int, int]]:
        whole, part = divmod(self._weights[index], 1)
        rows = list(range(len(self._files[index])))
        chosen = rows * int(whole) + rng.sample(rows, round(part * len(rows)))
        return [(index, row) for row in chosen]

    def _cut(self, pool: list[tuple[int, int]], rng: random.Random) -> Iterator[list[tuple[int, int]]]:
        rng.shuffle(pool)
        step = POOL_BATCHES * max(1, min(self._plan.rows, self._plan.tokens // self._plan.longest))
        for start in range(0, len(pool), step):
            batch: list[tuple[int, int]] = []
            for row in sorted(pool[start : start + step], key=self._tokens):
                rows = len(batch) + 1
                if batch and (rows > self._plan.rows or rows * self._tokens(row) > self._plan.tokens):
                    yield batch
                    batch = []
                batch.append(row)
            if batch:
                yield batch

    def _tokens(self, row: tuple[int, int]) -> int:
        file, index = row
        return min(self._plan.longest, self._files[file].sizes[index] // CHARACTERS_PER_TOKEN + 2)


def file_weight(name: str, weights: Mapping[str, float]) -> float:
    """Return the weight of the first pattern that matches a file's name; 1 when none does."""
    return next((weight for pattern, weight in weights.items() if fnmatch.fnmatch(name, pattern)), 1.0)
