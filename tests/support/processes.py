"""Run a function in several processes that can talk to each other (gloo, on the CPU)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing


def in_processes(function: Callable[..., Any], count: int, *arguments: Any) -> list[Any]:
    """Return `function(0, *arguments)`, `function(1, ...)`, ..., each from a process of its own.

    The environment of each is what `accelerate launch` and torchrun set, so accelerate finds the processes.
    """
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_work, (function, count, folder, arguments), nprocs=count)
        return [torch.load(Path(folder) / f"{index}.pt", weights_only=False) for index in range(count)]


def _work(index: int, function: Callable[..., Any], count: int, folder: str, arguments: tuple[Any, ...]) -> None:
    ranks = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "OMP_NUM_THREADS": 1}
    os.environ.update({name: str(value) for name, value in ranks.items()})
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=index, world_size=count)
    torch.save(function(index, *arguments), Path(folder) / f"{index}.pt")
    distributed.barrier()
    distributed.destroy_process_group()
