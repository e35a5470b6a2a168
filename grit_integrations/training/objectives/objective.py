"""What a step of training adds up: objectives, each with its own rows, batches and loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Tensor

from grit_integrations.evaluation.labelled_texts import PromptEncoder
from grit_integrations.training.config import TrainConfig
from grit_integrations.training.module import GritModule
from grit_integrations.training.rows.batches import Processes
from grit_integrations.training.rows.stream import Position, Stream

_Batch = TypeVar("_Batch")


class Loss(NamedTuple):
    """What a batch costs.

    Attributes:
        value: a scalar. Its mean over the processes, and its gradients' mean, are those of the whole batch.
        figures: further numbers for the log, by name.
    """

    value: Tensor
    figures: Mapping[str, float] = MappingProxyType({})


class Objective(Protocol[_Batch]):
    """One stream of training. The trainer knows nothing else of it, so a new one touches the trainer nowhere.

    Attributes:
        name: in the log, in errors and in checkpoints; no two objectives of a run share one.
        weight: of its loss in the sum.
        every: it takes part in every N-th step.
    """

    name: str
    weight: float
    every: int

    @property
    def position(self) -> Position:
        """Where its rows stand; a checkpoint keeps it."""

    def seek(self, position: Position) -> None:
        """Continue from a position that `position` gave."""

    def next_batch(self) -> _Batch:
        """Return this process's share of the next batch, on the CPU, and move on."""

    def loss(self, module: GritModule, batch: _Batch) -> Loss:
        """Return the batch's loss, not yet weighted. Called inside the module's `forward`."""


@dataclass(frozen=True, slots=True)
class Context:
    """What every objective of a run is made from."""

    config: TrainConfig
    encoder: PromptEncoder
    window: int  # tokens that the model has positions for
    processes: Processes = field(default_factory=Processes)


class StreamObjective:
    """The part of an objective whose rows come from one ordered stream."""

    def __init__(self, name: str, weight: float, stream: Stream[Any], context: Context, *, every: int = 1) -> None:
        self.name = name
        self.weight = weight
        self.every = every
        self.stream = stream
        self.context = context

    @property
    def position(self) -> Position:
        """Where the stream stands."""
        return self.stream.position

    def seek(self, position: Position) -> None:
        """Continue from a position that `position` gave."""
        self.stream.seek(position)
