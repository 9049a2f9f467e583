"""Tests of the log ridge, a linear expert that forecasts the logarithms of values by a ridge regression."""

from __future__ import annotations

import numpy as np

from forecaster.arrays import Floats, Floats32
from forecaster.components.base import Block
from forecaster.components.network.inputs import input_components
from forecaster.components.network.log_ridge import ALL_EXPERT_COUNT, ALL_RIDGE_COUNT, linear_forecasts
from forecaster.components.network.ridge import (
    LINEAR_EXPERT_COUNT,
    RIDGE_COUNT,
    expert_forecasts,
    regressor_count,
)
from forecaster.config import NetworkConfig
from forecaster.time.frequency import Frequency

RING, HORIZON, SEASON, DAY = 60, 10, 7, Frequency(86_400)
CONFIG = NetworkConfig(ring=RING, horizon=HORIZON, lags=(1,), halflife=1000)
NO_RIDGE = np.zeros((ALL_RIDGE_COUNT, regressor_count(RING), HORIZON), np.float32)


def block_of(values: Floats) -> Block:
    block = Block(np.array([0]), values, DAY)
    for part in input_components(CONFIG, DAY):
        _, block = part.step(part.init(values.shape[1]), block)
    return block


def log_forecast(values: Floats, ridge: Floats32) -> Floats:
    """Return the forecasts ``[T, S, N]`` of the log ridge, converted from changes in units to values."""
    block = block_of(values)
    changes = linear_forecasts(block, ridge, SEASON)
    assert changes.shape == (ALL_EXPERT_COUNT, *values.shape, HORIZON)
    forecast: Floats = block.last[:, :, None] + changes[LINEAR_EXPERT_COUNT] * block.unit[:, :, None]
    return forecast


def sales(windows: int = 90, series: int = 3) -> Floats:
    return np.exp(np.random.default_rng(0).normal(size=(windows, series)))


def ridge_on_lag(lag: int) -> Floats32:
    ridge = NO_RIDGE.copy()
    ridge[RIDGE_COUNT, RING - 1 - lag, 4] = 0.5  # the first regressor is the oldest lag
    return ridge


def test_lag_coefficient_half_forecasts_geometric_mean_of_value_and_lag() -> None:
    """Horizon 5 has the coefficient 0.5 for lag 12; horizon 4 has none and repeats the last value."""
    values = sales()
    forecast = log_forecast(values, ridge_on_lag(12))
    np.testing.assert_allclose(forecast[80, :, 4], np.sqrt(values[80] * values[68]), rtol=1e-4)
    np.testing.assert_allclose(forecast[80, :, 3], values[80], rtol=1e-6)


def test_a_missing_lag_is_replaced_by_the_mean_of_the_series() -> None:
    values = sales()
    values[68] = np.nan
    forecast = log_forecast(values, ridge_on_lag(12))
    mean = block_of(values).mean[80]
    np.testing.assert_allclose(forecast[80, :, 4], np.sqrt(values[80] * mean), rtol=1e-4)


def test_log_ridge_ignores_lagged_values_before_a_level_shift() -> None:
    values = 100.0 + np.random.default_rng(0).normal(size=(90, 2))
    values[75:] *= 1000.0
    forecast = log_forecast(values, ridge_on_lag(12))
    np.testing.assert_allclose(forecast[80, :, 4], values[80], rtol=1e-5)


def test_log_ridge_forecasts_are_proportional_to_the_values() -> None:
    values = sales()
    ridge = np.random.default_rng(1).normal(0, 0.1, NO_RIDGE.shape).astype(np.float32)
    for size in (1e-9, 1e9):
        np.testing.assert_allclose(
            log_forecast(values * size, ridge) / size, log_forecast(values, ridge), rtol=1e-3
        )


def test_a_series_with_values_of_0_is_forecast_without_logarithms() -> None:
    values = sales() + 1.0
    values[20, 1] = 0.0
    block, ridge = block_of(values), NO_RIDGE + np.float32(0.01)
    changes = linear_forecasts(block, ridge, SEASON)
    np.testing.assert_array_equal(
        changes[:LINEAR_EXPERT_COUNT], expert_forecasts(block, ridge[:RIDGE_COUNT], SEASON)
    )
    np.testing.assert_array_equal(changes[LINEAR_EXPERT_COUNT, 20:, 1], changes[RIDGE_COUNT - 1, 20:, 1])
    assert (changes[LINEAR_EXPERT_COUNT, 70:, 0] != changes[RIDGE_COUNT - 1, 70:, 0]).any()
    assert np.isfinite(changes).all()


def test_log_ridge_forecasts_stay_near_the_range_of_past_values() -> None:
    """The limits are the smallest past value / exp(0.7), and the largest past value * exp(0.7)."""
    values = sales()
    for size in (-50.0, 50.0):
        forecast = log_forecast(values, NO_RIDGE + np.float32(size))[80]
        assert (forecast <= 2.02 * values[:81].max(axis=0)[:, None]).all()
        assert (forecast >= 0.49 * values[:81].min(axis=0)[:, None]).all()
