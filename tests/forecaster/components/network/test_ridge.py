"""Tests of the linear experts: ridge regressions on the context, and fixed rules such as the last value."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.arrays import Floats
from forecaster.components.base import Block
from forecaster.components.network.inputs import input_components
from forecaster.components.network.ridge import (
    LINEAR_EXPERT_COUNT,
    OTHER_LEVEL,
    RIDGE_COUNT,
    expert_forecasts,
    limit_distances,
    regressor_count,
)
from forecaster.config import NetworkConfig
from forecaster.time.frequency import Frequency

RING, HORIZON, SEASON, DAY = 60, 10, 7, Frequency(86_400)
CONFIG = NetworkConfig(ring=RING, horizon=HORIZON, lags=(1,), halflife=1000)
NO_RIDGE = np.zeros((RIDGE_COUNT, regressor_count(RING), HORIZON), np.float32)


def block_of(values: Floats) -> Block:
    block = Block(np.array([0]), values.reshape(len(values), -1), DAY)
    for part in input_components(CONFIG, DAY):
        _, block = part.step(part.init(block.values.shape[1]), block)
    return block


def values_of(block: Block, changes: Floats) -> Floats:
    """Return forecasts ``[T, S, N]``: the last value of each series plus ``changes`` times `Block.unit`."""
    return block.last[:, :, None] + changes * block.unit[:, :, None]


def walks(windows: int = 90, series: int = 3) -> Floats:
    return 50 + np.random.default_rng(0).normal(size=(windows, series)).cumsum(axis=0)


def test_fixed_experts_are_persistence_mean_and_two_seasonal_naives() -> None:
    values = walks()
    block = block_of(values)
    changes = expert_forecasts(block, NO_RIDGE, SEASON)
    assert changes.shape == (LINEAR_EXPERT_COUNT, *values.shape, HORIZON)
    season, seventh, mean, last = (values_of(block, part) for part in changes[RIDGE_COUNT:])
    t = 80
    for h in range(1, HORIZON + 1):
        np.testing.assert_allclose(season[t, :, h - 1], values[t + h - SEASON * (1 + (h - 1) // SEASON)])
        np.testing.assert_allclose(seventh[t, :, h - 1], values[t + h - 7 * SEASON])
        np.testing.assert_allclose(mean[t, :, h - 1], block.mean[t])
        np.testing.assert_array_equal(last[t, :, h - 1], values[t])


def test_lag_weight_of_half_averages_lagged_and_last_value() -> None:
    values, ridge = walks(), NO_RIDGE.copy()
    ridge[1, RING - 1 - 12, 4] = 0.5  # regressors are ordered from the oldest lag to the newest
    block = block_of(values)
    found = values_of(block, expert_forecasts(block, ridge, SEASON)[1])
    np.testing.assert_allclose(found[80, :, 4], (values[80] + values[68]) / 2, rtol=1e-6)
    np.testing.assert_array_equal(found[80, :, 3], values[80])


def test_the_seasonal_expert_replaces_gaps_by_the_running_mean() -> None:
    values = walks()
    values[80 + 3 - SEASON] = np.nan
    block = block_of(values)
    season = values_of(block, expert_forecasts(block, NO_RIDGE, SEASON)[RIDGE_COUNT])
    np.testing.assert_allclose(season[80, :, 2], block.mean[80])


def test_ridge_forecasts_ignore_lags_before_a_level_shift() -> None:
    values = np.concatenate([walks(80, 1), 1e6 + walks(10, 1)])
    block = block_of(values)
    changes = values_of(block, expert_forecasts(block, NO_RIDGE + np.float32(0.1), SEASON).astype(np.float64))
    forecast = changes[:, 80, 0]
    assert (np.abs(forecast - values[80, 0]) < 0.1 * np.abs(values[80, 0] - values[79, 0])).all()
    far = np.array([10.0, 20.0, 30.0, 40.0, 1e9], np.float32) / np.float32(OTHER_LEVEL)
    limit_distances(far, 0.0)
    np.testing.assert_array_equal(far * OTHER_LEVEL, [10, 20, 15, 0, 0])


@pytest.mark.parametrize("rows", [[0], [3, 50, 89]])
def test_expert_forecasts_of_some_windows_equal_forecasts_of_all_windows(rows: list[int]) -> None:
    block, ridge = block_of(walks()), NO_RIDGE + np.float32(0.01)
    every = expert_forecasts(block, ridge, SEASON)
    selected = expert_forecasts(block, ridge, SEASON, np.array(rows))
    # Allow rounding errors: products of larger matrices may add float32 terms in another order.
    np.testing.assert_allclose(selected, every[:, rows], rtol=1e-5, atol=1e-6)


def test_linear_expert_forecasts_do_not_depend_on_series_count() -> None:
    values = walks(70, 300)
    ridge = NO_RIDGE + np.float32(0.01)
    whole, part = block_of(values), block_of(values[:, 250:])
    np.testing.assert_allclose(
        expert_forecasts(whole, ridge, SEASON)[:, :, 250:], expert_forecasts(part, ridge, SEASON), atol=1e-5
    )


def test_seasonal_naives_beyond_the_ring_repeat_the_last_value() -> None:
    block = block_of(walks())
    short = np.zeros((RIDGE_COUNT, 4, HORIZON), np.float32)
    changes = expert_forecasts(block, short, SEASON)
    assert (changes[RIDGE_COUNT : RIDGE_COUNT + 2, :, :, 0] == 0).all()
