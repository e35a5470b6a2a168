"""Learning rates over a run: up in `warmup_steps`, then down to a share of the peak."""

from __future__ import annotations

import math

from grit_integrations.training.config import OptimiserConfig


def warmth(settings: OptimiserConfig, step: int) -> float:
    """Return how far the warmup is when `step` steps were taken, in 0..1."""
    return min(1.0, (step + 1) / max(1, settings.warmup_steps))


def fall(settings: OptimiserConfig, share: float) -> float:
    """Return the factor that the schedule gives when `share` of it has passed, from 1 down to `final_rate`."""
    share = min(1.0, share)
    left = 0.5 * (1 + math.cos(math.pi * share)) if settings.schedule == "cosine" else 1 - share
    return settings.final_rate + (1 - settings.final_rate) * left
