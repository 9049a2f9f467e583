from __future__ import annotations

import numpy as np

from forecaster.arrays import Floats, Floats32
from forecaster.components.base import Block
from forecaster.components.network.inputs import before_network
from forecaster.components.network.log_ridge import ALL_EXPERTS, ALL_RIDGES, all_forecasts
from forecaster.components.network.ridge import EXPERTS, RIDGES, expert_forecasts, regressor_count
from forecaster.config import NetworkConfig
from forecaster.time.frequency import Frequency

RING, HORIZON, SEASON, DAY = 60, 10, 7, Frequency(86_400)
CONFIG = NetworkConfig(ring=RING, horizon=HORIZON, lags=(1,), halflife=1000)
NOTHING = np.zeros((ALL_RIDGES, regressor_count(RING), HORIZON), np.float32)


def block_of(values: Floats) -> Block:
    block = Block(np.array([0]), values, DAY)
    for part in before_network(CONFIG, DAY):
        _, block = part.step(part.init(values.shape[1]), block)
    return block


def said_by(values: Floats, ridge: Floats32) -> Floats:
    """``[T, S, N]``, what the regression in logarithms forecasts."""
    block = block_of(values)
    said = all_forecasts(block, ridge, SEASON)
    assert said.shape == (ALL_EXPERTS, *values.shape, HORIZON)
    found: Floats = block.last[:, :, None] + said[EXPERTS] * block.unit[:, :, None]
    return found


def sales(windows: int = 90, series: int = 3) -> Floats:
    return np.exp(np.random.default_rng(0).normal(size=(windows, series)))


def half_of(lag: int) -> Floats32:
    ridge = NOTHING.copy()
    ridge[RIDGES, RING - 1 - lag, 4] = 0.5  # lags come oldest first
    return ridge


def test_a_ridge_of_one_weight_is_a_share_of_that_lag() -> None:
    values = sales()
    found = said_by(values, half_of(12))
    np.testing.assert_allclose(found[80, :, 4], np.sqrt(values[80] * values[68]), rtol=1e-4)
    np.testing.assert_allclose(found[80, :, 3], values[80], rtol=1e-6)


def test_a_missing_lag_counts_as_the_mean() -> None:
    values = sales()
    values[68] = np.nan
    found = said_by(values, half_of(12))
    mean = block_of(values).mean[80]
    np.testing.assert_allclose(found[80, :, 4], np.sqrt(values[80] * mean), rtol=1e-4)


def test_a_lag_from_another_level_counts_as_nothing() -> None:
    values = 100.0 + np.random.default_rng(0).normal(size=(90, 2))
    values[75:] *= 1000.0
    found = said_by(values, half_of(12))
    np.testing.assert_allclose(found[80, :, 4], values[80], rtol=1e-5)


def test_a_series_of_any_size_is_forecast_by_the_same_shares() -> None:
    values = sales()
    ridge = np.random.default_rng(1).normal(0, 0.1, NOTHING.shape).astype(np.float32)
    for size in (1e-9, 1e9):
        np.testing.assert_allclose(said_by(values * size, ridge) / size, said_by(values, ridge), rtol=1e-3)


def test_a_series_that_has_reached_0_is_left_to_the_other_regressions() -> None:
    values = sales() + 1.0
    values[20, 1] = 0.0
    block, ridge = block_of(values), NOTHING + np.float32(0.01)
    said = all_forecasts(block, ridge, SEASON)
    np.testing.assert_array_equal(said[:EXPERTS], expert_forecasts(block, ridge[:RIDGES], SEASON))
    np.testing.assert_array_equal(said[EXPERTS, 20:, 1], said[RIDGES - 1, 20:, 1])
    assert (said[EXPERTS, 70:, 0] != said[RIDGES - 1, 70:, 0]).any()
    assert np.isfinite(said).all()


def test_weights_that_lead_far_away_end_at_twice_what_was_seen() -> None:
    values = sales()
    for size in (-50.0, 50.0):
        found = said_by(values, NOTHING + np.float32(size))[80]
        assert (found <= 2.02 * values[:81].max(axis=0)[:, None]).all()
        assert (found >= 0.49 * values[:81].min(axis=0)[:, None]).all()
