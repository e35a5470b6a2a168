"""How fast a model computes and a store reads, as measured on one machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Speeds:
    """What was measured once for one model on one machine; None is not measured yet.

    Attributes:
        prefill: tokens a second that the model computes.
        load: bytes a second that blocks are read from the disk, checksum included.
    """

    prefill: float | None = None
    load: float | None = None
