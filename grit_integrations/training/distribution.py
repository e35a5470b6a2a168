"""One process or several, by accelerate: which rows are whose, one door to the parameters, figures that all share."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType, PartialState
from torch import Tensor, nn

from grit_integrations.errors import ConfigError
from grit_integrations.training.rows.batches import Processes


class Distribution:
    """The processes of a run. `accelerate launch` starts several; without it there is one."""

    def __init__(self, device: str) -> None:
        wanted = choose_device(device)
        self._accelerator = Accelerator(
            cpu=wanted.type == "cpu" and _launched(),
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        self.processes = Processes(self._accelerator.process_index, self._accelerator.num_processes)
        self.device = wanted if self.alone else self._accelerator.device
        self.sharded = self._accelerator.distributed_type is DistributedType.FSDP

    @property
    def alone(self) -> bool:
        """Whether this is the only process."""
        return self.processes.count == 1

    @property
    def writes(self) -> bool:
        """Whether this is the process that writes files."""
        return self.processes.index == 0

    def prepare(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[Any, Any]:
        """Return the module in its wrapper, and the optimiser of its parameters."""
        if self.alone:
            return module.to(self.device), optimiser
        return tuple(self._accelerator.prepare(module, optimiser))

    def unsynchronised(self, wrapped: Any, *, wanted: bool) -> AbstractContextManager[Any]:
        """Return a context in which gradients stay in this process, to be exchanged with those that follow."""
        return self._accelerator.no_sync(wrapped) if wanted and not self.alone else nullcontext()

    def clip(self, wrapped: Any, longest: float) -> float:
        """Shorten the gradient to `longest` and return its length before."""
        parameters = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
        return float(self._accelerator.clip_grad_norm_(parameters, longest))

    def state(self, wrapped: Any) -> dict[str, Tensor]:
        """Return the module's state by its own names; where it is sharded, whole in the process that writes."""
        state: dict[str, Tensor] = self._accelerator.get_state_dict(wrapped) if self.sharded else _unwrapped(wrapped)
        return state

    def optimiser_state(self, wrapped: Any, optimiser: Any) -> dict[str, Any]:
        """Return the optimiser's state; where it is sharded, whole in the process that writes."""
        if not self.sharded:
            state: dict[str, Any] = optimiser.state_dict()
            return state
        from torch.distributed.checkpoint import state_dict  # takes a second, and one process needs it not

        whole = state_dict.StateDictOptions(full_state_dict=True, cpu_offload=True)
        return state_dict.get_optimizer_state_dict(wrapped, optimiser.optimizer, options=whole)

    def load_optimiser(self, wrapped: Any, optimiser: Any, state: dict[str, Any]) -> None:
        """Put back what `optimiser_state` gave."""
        if not self.sharded:
            optimiser.load_state_dict(state)
            return
        from torch.distributed.checkpoint import state_dict

        whole = state_dict.StateDictOptions(full_state_dict=True, cpu_offload=True)
        state_dict.set_optimizer_state_dict(wrapped, optimiser.optimizer, state, options=whole)

    def mean(self, value: float) -> float:
        """Return the mean of a figure over the processes."""
        if self.alone:
            return value
        shared: Tensor = self._accelerator.reduce(torch.tensor(value, device=self.device), "mean")
        return float(shared)

    def agree(self, stop: bool, seconds: float) -> tuple[bool, float]:
        """Return whether any process wants to stop, and the longest time that any has spent."""
        if self.alone:
            return stop, seconds
        gathered = self._accelerator.gather(
            torch.tensor([[float(stop), seconds]], dtype=torch.float64, device=self.device)
        )
        most = gathered.max(dim=0).values
        return bool(most[0] > 0), float(most[1])

    def wait(self) -> None:
        """Wait for every process to come here."""
        self._accelerator.wait_for_everyone()

    def first(self) -> AbstractContextManager[Any]:
        """Return a context that the writing process leaves before the others enter it."""
        context: AbstractContextManager[Any] = self._accelerator.main_process_first()
        return context


def is_first_process() -> bool:
    """Tell whether this is the only or the first of the processes that a launcher started."""
    return int(os.environ.get("RANK", "0")) == 0


def choose_device(wanted: str) -> torch.device:
    """Return the device of a recipe; "auto" takes CUDA when there is one."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda', but torch finds no CUDA device. Use device = 'auto' or 'cpu'.")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def _launched() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 or PartialState._shared_state.get("num_processes", 1) > 1


def _unwrapped(wrapped: Any) -> dict[str, Tensor]:
    module = getattr(wrapped, "module", wrapped)
    state: dict[str, Tensor] = module.state_dict()
    return state
