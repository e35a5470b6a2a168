"""Stores in forked children: sqlite connections, threads and locks are the parent's, so each is opened anew.

A child computes with one thread, as in the workers of torch's data loaders. One that has a model of its own, and whose
parent never computed anything, may call `torch.set_num_threads`.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

import torch


class Forkable(Protocol):
    """Something that must let go of what it has opened when the process forks."""

    def leave_to_parent(self) -> object:
        """Open anew in this forked child; return what must not be closed here."""
        ...


_OPEN: weakref.WeakSet[Forkable] = weakref.WeakSet()
_OF_PARENT: list[object] = []  # never closed here: sqlite forbids that in the child


def reopen_in_children(store: Forkable) -> None:
    """Let a store open anew in every child that is forked from now on."""
    _OPEN.add(store)


def _leave_to_parent() -> None:
    stores = list(_OPEN)
    if stores:
        torch.set_num_threads(1)  # its other threads are the parent's: what is shared out to them is never done here
    _OF_PARENT.extend(store.leave_to_parent() for store in stores)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
