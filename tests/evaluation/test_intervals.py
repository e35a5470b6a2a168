"""Bootstrap intervals: known values, coverage, and systems compared on the same draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grit_integrations.evaluation.intervals import (
    Estimate,
    auc_interval,
    difference_interval,
    mean_interval,
    ratio_interval,
)

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def test_the_interval_of_a_share_is_near_the_binomial_one() -> None:
    found = mean_interval([1.0] * 60 + [0.0] * 40)
    assert found.value == 0.6
    assert found.low == pytest.approx(0.6 - 1.96 * np.sqrt(0.24 / 100), abs=0.02)
    assert found.high == pytest.approx(0.6 + 1.96 * np.sqrt(0.24 / 100), abs=0.02)


def test_intervals_cover_the_truth_about_95_times_in_100() -> None:
    generator = np.random.default_rng(1)
    draws = generator.normal(3.0, 2.0, size=(300, 60))
    found = [mean_interval(draw) for draw in draws]
    assert 0.90 <= np.mean([each.low <= 3.0 <= each.high for each in found]) <= 0.99


@given(SHARES, st.integers(0, 5))
def test_an_interval_stays_within_its_values_and_repeats(values: list[float], seed: int) -> None:
    found = mean_interval(values, seed=seed)
    assert min(values) - 1e-12 <= found.low <= found.high <= max(values) + 1e-12
    assert found == mean_interval(values, seed=seed)


def test_another_seed_draws_other_resamples() -> None:
    values = np.random.default_rng(0).random(40)
    assert mean_interval(values, seed=0) != mean_interval(values, seed=1)


def test_a_constant_difference_is_certain_although_the_values_vary() -> None:
    values = np.random.default_rng(0).random(50)
    found = difference_interval(values + 0.25, values)
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))


def test_a_ratio_is_of_sums_and_paired() -> None:
    values = np.random.default_rng(0).random(50) + 0.1
    halves = ratio_interval(values, 2 * values)
    assert halves is not None
    assert (halves.value, halves.low, halves.high) == pytest.approx((0.5, 0.5, 0.5))
    assert ratio_interval([1.0, 3.0], [1.0, 1.0]) == Estimate(2.0, 1.0, 3.0)
    assert ratio_interval([1.0, 2.0], [0.0, 0.0]) is None


def test_a_ratio_leaves_out_resamples_without_anything_to_compare_with() -> None:
    found = ratio_interval([1.0, 1.0], [1.0, 0.0])
    assert found is not None
    assert np.isfinite([found.value, found.low, found.high]).all()


def test_auc_of_known_orders() -> None:
    assert auc_interval([2.0, 3.0], [0.0, 1.0]) == Estimate(1.0, 1.0, 1.0)
    assert auc_interval([0.0], [1.0, 2.0]).value == 0.0
    assert auc_interval([1.0, 1.0], [1.0]).value == 0.5
    assert auc_interval([1.0, float("-inf")], [float("-inf")]).value == 0.75


@given(SHARES, SHARES)
def test_auc_of_the_sides_exchanged_is_the_rest(above: list[float], below: list[float]) -> None:
    assert auc_interval(above, below).value == pytest.approx(1 - auc_interval(below, above).value)


def test_many_values_are_drawn_in_pieces() -> None:
    values = np.random.default_rng(0).random(10_000)  # 20 million numbers are drawn
    found = mean_interval(values)
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 100, rel=0.1)
