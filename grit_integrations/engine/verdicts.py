"""Many prompts of which only a few logits behind the last token are wanted, read a batch at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grit_integrations.engine.jobs import JUDGE, FutureJob, tell
from grit_integrations.engine.prefill import Reading
from grit_integrations.engine.tails import rows_cache, tail_logits
from grit_integrations.kv.cache import copy_rows
from grit_integrations.loading.kernels import check_takes_masks
from grit_integrations.prompts.plan import PlannedBlock

if TYPE_CHECKING:
    from grit_integrations.engine.encoder import Encoder
    from grit_integrations.engine.jobs import Job
    from grit_integrations.engine.prefill import Prefill
    from grit_integrations.kv.cache import RowsCache
    from grit_integrations.kv.reuse import Reuse
    from grit_integrations.prompts.plan import Plan

# Tokens, padding included, whose keys and values are held at once for a batch of prompts.
CACHED_TOKENS = {"cpu": 8192, "cuda": 32768}

Blocks = tuple[PlannedBlock, ...]


class JudgeJob(FutureJob[Tensor]):
    """Reads prompts of one caller, at least one, for the logits of a few tokens behind each.

    Args:
        encoder: its token budget bounds the tails of a batch.
        prefill: reads blocks.
        reuses: the prompts and what of them is stored.
        wanted: ids of the tokens whose logits are wanted.
        on_progress: called on the worker with how many prompts were finished.

    Attributes:
        future: (prompts, wanted) float32; cancelling it stops the work.

    Raises:
        OptionError: the model's attention kernel takes no mask.
    """

    lane = JUDGE

    def __init__(
        self,
        encoder: Encoder,
        prefill: Prefill,
        reuses: Sequence[Reuse],
        wanted: Sequence[int],
        *,
        on_progress: Callable[[int], object] | None = None,
    ) -> None:
        check_takes_masks(encoder.weights.lm)
        super().__init__()
        self._encoder, self._prefill = encoder, prefill
        self._reuses, self._wanted, self._on_progress = reuses, wanted, on_progress
        self._judge: Judge | None = None

    @property
    def left(self) -> int:
        """How many prompts are still to be read."""
        return len(self._reuses) if self._judge is None else self._judge.left

    def step(self, peers: Sequence[Job]) -> None:
        """Compute at most one block, or else the tails of one batch."""
        self._judge = self._judge or Judge(self._encoder, self._prefill, self._reuses, self._wanted)
        finished = self._judge.step()
        if finished:
            tell(self._on_progress, finished)
        if not self._judge.left:
            self.finish(self._judge.result())


@dataclass(slots=True)
class _Batch:
    """Prompts that are read together: where their blocks go, and how far each has come."""

    indices: list[int]
    cache: RowsCache
    readings: list[Reading]


class Judge:
    """Reads prompts in batches that depend on their lengths alone, so that a stored block changes no score.

    A prompt's blocks are read into its row of a batch. Blocks that several prompts begin with are read once.

    Args:
        encoder: its token budget bounds the tails of a batch.
        prefill: reads blocks.
        reuses: the prompts.
        wanted: ids of the tokens whose logits are kept.
    """

    def __init__(self, encoder: Encoder, prefill: Prefill, reuses: Sequence[Reuse], wanted: Sequence[int]) -> None:
        self._weights, self._prefill = encoder.weights, prefill
        self._reuses, self._wanted = reuses, wanted
        counts = Counter(reuse.plan.blocks for reuse in reuses)
        self._shared: dict[Blocks, Reading | None] = {blocks: None for blocks, count in counts.items() if count > 1}
        cached = CACHED_TOKENS.get(encoder.weights.device.type, CACHED_TOKENS["cuda"])
        plans = [reuse.plan for reuse in reuses]
        self._waiting = batches(plans, tail_tokens=encoder.batch_tokens, cached_tokens=cached)
        self._batch: _Batch | None = None
        self._logits = torch.empty(len(reuses), len(wanted))
        self.left = len(reuses)

    @torch.inference_mode()
    def step(self) -> int:
        """Compute at most one block, or else the tails of one batch; return how many prompts are done with it."""
        batch = self._batch = self._batch or self._begin(self._waiting.pop(0))
        for reading in batch.readings:
            if not reading.done and self._computes(reading):
                return 0
        self._fill_shared(batch)
        tails = [self._reuses[index].plan.suffix for index in batch.indices]
        self._logits[batch.indices] = tail_logits(self._weights, batch.cache, tails, self._wanted)
        self._batch = None
        self.left -= len(batch.indices)
        return len(batch.indices)

    def result(self) -> Tensor:
        """Return the logits, (prompts, wanted) float32, in the order of the prompts."""
        return self._logits.clone()

    def _begin(self, indices: list[int]) -> _Batch:
        reuses = [self._reuses[index] for index in indices]
        prefixes = [_prefix(reuse.plan) for reuse in reuses]
        cache = rows_cache(self._weights, prefixes, [len(reuse.plan.suffix) for reuse in reuses])
        readings = [self._reading(reuse, cache, row) for row, reuse in enumerate(reuses)]
        return _Batch(indices, cache, readings)

    def _reading(self, reuse: Reuse, cache: RowsCache, row: int) -> Reading:
        blocks = reuse.plan.blocks
        if blocks not in self._shared:
            return Reading(reuse, cache.row(row))
        reading = self._shared[blocks] = self._shared[blocks] or self._prefill.begin(reuse, room=0)
        return reading

    def _computes(self, reading: Reading) -> bool:
        """Advance a prompt that is being read; return whether a block had to be computed."""
        length, stored = reading.cache.get_seq_length(), reading.reuse.read_tokens
        self._prefill.advance(reading)
        return reading.cache.get_seq_length() - length > reading.reuse.read_tokens - stored

    def _fill_shared(self, batch: _Batch) -> None:
        for row, (index, reading) in enumerate(zip(batch.indices, batch.readings, strict=True)):
            if self._reuses[index].plan.blocks in self._shared:
                copy_rows(reading.cache, batch.cache.row(row), reading.cache.get_seq_length())


def batches(plans: Sequence[Plan], *, tail_tokens: int, cached_tokens: int) -> list[list[int]]:
    """Return the prompts, by their indices, in batches of like length.

    Args:
        plans: the prompts.
        tail_tokens: padded tokens that one forward pass computes at most; one prompt's are always allowed.
        cached_tokens: padded tokens, those before the tails included, that a batch holds at most.
    """
    made: list[list[int]] = []
    tail = prefix = 0
    for index in sorted(range(len(plans)), key=lambda index: len(plans[index])):
        plan = plans[index]
        tail, prefix = max(tail, len(plan.suffix)), max(prefix, _prefix(plan))
        rows = len(made[-1]) + 1 if made else 0
        if rows and rows * tail <= tail_tokens and rows * (prefix + tail) <= cached_tokens:
            made[-1].append(index)
        else:
            made.append([index])
            tail, prefix = len(plan.suffix), _prefix(plan)
    return made


def _prefix(plan: Plan) -> int:
    return len(plan) - len(plan.suffix)
