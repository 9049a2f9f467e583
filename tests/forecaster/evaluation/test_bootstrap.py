"""Tests of the block bootstrap: it computes a confidence interval of a model's improvement over another.

It draws blocks of consecutive issue times, because losses of neighbouring issue times are correlated.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.arrays import Floats
from forecaster.evaluation.bootstrap import block_length, improvements


def autoregression(weight: float, count: int, seed: int) -> Floats:
    """Return a series in which each value is ``weight`` times the previous value, plus normal noise."""
    noise = np.random.default_rng(seed).normal(size=count)
    values = np.zeros(count)
    for t in range(1, count):
        values[t] = weight * values[t - 1] + noise[t]
    return values


@pytest.mark.parametrize(
    ("weight", "count", "seed", "expected"),
    [  # The expected lengths are the column `circular` of optimal_block_length in the package arch 8.0.
        (0.0, 500, 1, 3.67),
        (0.5, 500, 1, 9.52),
        (0.9, 500, 1, 39.63),
        (0.9, 2000, 2, 41.75),
        (0.5, 100, 3, 3.98),
        (-0.5, 300, 4, 15.32),
    ],
)
def test_the_bootstrap_block_length_rounds_the_arch_result_up(
    weight: float, count: int, seed: int, expected: float
) -> None:
    assert block_length(autoregression(weight, count, seed)) == np.ceil(expected)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
def test_block_length_is_1_for_constant_loss_differences(count: int) -> None:
    assert block_length(np.full(count, 0.3)) == 1


def test_about_nine_of_ten_intervals_contain_the_true_improvement() -> None:
    length, inside, trials = 20, 0, 120
    for seed in range(trials):
        # Both models have this part of the loss; the challenger's is 10% smaller, so the improvement is 0.1.
        both = 10 + autoregression(0.7, 400, seed)[:, None]
        champion = both + 0.5 * autoregression(0.7, 400, 1000 + seed)[:, None]
        challenger = 0.9 * both + 0.5 * autoregression(0.7, 400, 2000 + seed)[:, None]
        (found,) = improvements(champion, challenger, np.ones_like(champion), length, 0.9)
        inside += found.low <= 0.1 <= found.high
    assert 0.8 <= inside / trials <= 0.97


@given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 99))
def test_models_with_equal_losses_have_an_improvement_of_exactly_0(
    times: int, length: int, seed: int
) -> None:
    losses = np.abs(np.random.default_rng(seed).normal(size=(times, 2)))
    for found in improvements(losses, losses, np.ones_like(losses), length, 0.9):
        assert found == (0.0, 0.0, 0.0)


@given(st.integers(1, 60), st.integers(1, 80), st.floats(0.1, 10), st.integers(0, 99))
def test_a_constant_loss_ratio_gives_intervals_of_zero_width(
    times: int, length: int, ratio: float, seed: int
) -> None:
    losses = 0.1 + np.abs(np.random.default_rng(seed).normal(size=(times, 1)))
    (found,) = improvements(losses, ratio * losses, np.ones_like(losses), length, 0.9)
    assert np.allclose(found, 1 - ratio)


def test_a_rounding_difference_of_losses_is_no_improvement() -> None:
    nothing = np.zeros((50, 1))
    (found,) = improvements(nothing, nothing + 1e-15, np.ones_like(nothing), 5, 0.9)
    assert np.allclose(found, 0.0, atol=1e-8)
