"""Bootstrap intervals: how far a figure would move with another draw of questions from the same source.

Every interval is the middle 95 % of the figure over resamples of its questions (percentile bootstrap; Efron and
Tibshirani 1993, chapter 13). Figures that share a seed and a number of questions are resampled alike, so systems are
compared on the same draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
_TAILS = (2.5, 97.5)  # percentiles
_AT_ONCE = 4_000_000  # numbers that are drawn in one piece

Values = npt.NDArray[np.floating[Any]] | Sequence[float]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def mean_interval(values: Values, *, seed: int = 0) -> Estimate:
    """Estimate a mean over questions.

    >>> mean_interval([1.0, 1.0, 1.0])
    Estimate(value=1.0, low=1.0, high=1.0)
    """
    found = _floats(values)
    return _estimate(float(found.mean()), _resampled_means(found[None, :], seed)[0])


def difference_interval(values: Values, others: Values, *, seed: int = 0) -> Estimate:
    """Estimate the mean of `values - others`, which belong to the same questions."""
    return mean_interval(_floats(values) - _floats(others), seed=seed)


def ratio_interval(values: Values, others: Values, *, seed: int = 0) -> Estimate | None:
    """Estimate `sum(values) / sum(others)` over the same questions; `None` if the others sum to 0.

    Resamples in which the others sum to 0 are left out.
    """
    both = np.stack([_floats(values), _floats(others)])
    above, below = both.mean(axis=1)
    if below == 0:
        return None
    means = _resampled_means(both, seed)
    usable = means[1] != 0
    return _estimate(float(above / below), means[0][usable] / means[1][usable])


def auc_interval(positive: Values, negative: Values, *, seed: int = 0) -> Estimate:
    """Estimate the area under the ROC curve: how often a positive scores above a negative, a tie counting one half.

    Positives and negatives are resampled apart from each other.

    >>> auc_interval([3.0, 2.0], [1.0, 2.0]).value
    0.875
    """
    above, below = _floats(positive), _floats(negative)
    wins = (above[:, None] > below[None, :]) + 0.5 * (above[:, None] == below[None, :])  # (positives, negatives)
    generator = np.random.default_rng(seed)
    weights = [generator.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n for n in wins.shape]
    return _estimate(float(wins.mean()), ((weights[0] @ wins) * weights[1]).sum(axis=1))


def _resampled_means(rows: Floats, seed: int) -> Floats:
    """Return the means of each row over resamples of its columns, (rows, resamples)."""
    count = rows.shape[1]
    generator = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // count)
    parts = []
    for start in range(0, RESAMPLES, step):
        drawn = generator.integers(0, count, size=(min(step, RESAMPLES - start), count))
        parts.append(rows[:, drawn].mean(axis=2))
    means: Floats = np.concatenate(parts, axis=1)
    return means


def _estimate(value: float, resampled: Floats) -> Estimate:
    low, high = np.percentile(resampled, _TAILS)
    return Estimate(value, float(low), float(high))


def _floats(values: Values) -> Floats:
    found: Floats = np.asarray(values, dtype=np.float64)
    assert found.ndim == 1
    assert len(found) > 0, "an estimate needs at least one value"
    return found
