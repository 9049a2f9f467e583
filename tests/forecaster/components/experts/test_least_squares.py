"""Tests of the least-squares expert, which fits a linear regression on the past values of each series."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.components.base import Block
from forecaster.components.experts.least_squares import LeastSquares
from forecaster.components.season import Season
from tests.forecaster.components.blocks import block_of, step_through


def autoregression(windows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = np.zeros((windows, 3))
    for t in range(2, windows):
        values[t] = 1.6 * values[t - 1] - 0.8 * values[t - 2] + rng.normal(size=3)
    return values


def forecasts_of(block: Block) -> np.ndarray:
    """Return the forecasts of the expert ``x`` as values of the series, not as changes in scales.

    The axes are horizon, window and series.
    """
    return block.last + block.scale * block.members["x"]


def test_least_squares_without_forgetting_is_a_ridge_regression() -> None:
    values = autoregression(120)
    expert = LeastSquares("x", 2, lags=(1, 2), forget=1.0)
    after, block = step_through([Season(1), expert], block_of(values, 2))
    for s in range(3):
        y, scale = values[:, s], block.scale[:, s]
        # The expert learns from a window only if more than ``reach`` values were observed before this window.
        rows = range(expert.reach + 1, 120)
        x = np.array([[(y[t - 1 - lag] - y[t - 1]) / scale[t] for lag in (1, 2)] for t in rows])
        target = np.array([(y[t] - y[t - 1]) / scale[t] for t in rows])
        weights = np.linalg.solve(x.T @ x + expert.prior * np.eye(2), x.T @ target)
        np.testing.assert_allclose(after["x"]["weights"][s], weights, rtol=1e-3)


def test_least_squares_updates_do_not_depend_on_the_memory_layout() -> None:
    # A large fleet is stepped in parts of its series. For such a part, ``inverse`` may be a view that is
    # not contiguous; `_update` then takes another branch than for a contiguous array.
    expert, rng = LeastSquares("ar", 4, (1, 2, 3, 5)), np.random.default_rng(3)
    whole = expert.init(6)["inverse"].transpose(1, 2, 0).copy()
    padded = np.zeros((4, 4, 9), np.float32)
    part = padded[:, :, :6]
    part[:] = whole
    weights, of_part = np.zeros((2, 4, 6), np.float32)
    learns = np.array([True, True, False, True, True, True])
    for _ in range(50):
        x, target = rng.normal(size=(4, 6)).astype(np.float32), rng.normal(size=6).astype(np.float32)
        x[:, ~learns], target[~learns] = 0.0, 0.0
        expert._update(weights, whole, x, target, learns)
        expert._update(of_part, part, x, target, learns)
    assert np.abs(weights).max() > 0.01
    np.testing.assert_allclose(of_part, weights, atol=1e-5)
    np.testing.assert_allclose(part, whole, atol=1e-6)


def test_least_squares_forecasts_beat_the_last_value() -> None:
    values = autoregression(600)
    expert = LeastSquares("x", 5, lags=(1, 2, 3))
    _, block = step_through([Season(1), expert], block_of(values, 5))
    for h, share in ((1, 0.75), (5, 0.9)):
        actual = values[200 + h :]
        own = np.abs(actual - forecasts_of(block)[h - 1][200:-h]).mean()
        last = np.abs(actual - values[200:-h]).mean()
        assert own < share * last


def test_with_a_season_least_squares_forecasts_the_seasonal_pattern() -> None:
    day = np.array([0.0, 1.0, 5.0, 2.0, -4.0, -4.0])
    values = np.tile(day, 40)[:, None] + 100.0
    expert = LeastSquares("x", 6, lags=(1, 2), season=True)
    _, block = step_through([Season(6), expert], block_of(values, 6))
    np.testing.assert_allclose(forecasts_of(block)[:, -1, 0], day + 100.0, atol=0.2)


def test_least_squares_forecasts_follow_a_level_shift_without_overshooting() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(400, 1)).cumsum(axis=0)
    values[300:] += 1000.0
    expert = LeastSquares("x", 3, lags=(1, 2, 24))
    _, block = step_through([Season(1), expert], block_of(values, 3))
    after = forecasts_of(block)[:, 305:324, 0]
    assert np.abs(after - values[305:324, 0]).max() < 20


@pytest.mark.parametrize("kind", ["constant", "missing", "jump", "tiny", "alternating"])
def test_forecasts_of_constant_sparse_or_jumping_series_are_finite(kind: str) -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(500, 2)).cumsum(axis=0)
    if kind == "constant":
        values[:] = 7.0
    elif kind == "missing":
        values[rng.random(values.shape) < 0.5] = np.nan
        values[0] = 1.0
    elif kind == "jump":
        values[250:] *= 1e9
    elif kind == "tiny":
        values *= 1e-9
    else:
        values[::2] = np.nan
        values[0] = 1.0
    expert = LeastSquares("x", 24, lags=(1, 2, 23), halflives=(24.0,))
    after, block = step_through([Season(1), expert], block_of(values, 24))
    assert np.isfinite(block.members["x"]).all()
    assert all(np.isfinite(array).all() for array in after["x"].values())
