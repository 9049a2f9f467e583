"""Tests of stacking, which combines the members; more accurate members get larger weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from forecaster.arrays import Arrays, Floats
from forecaster.components.anchors import anchor_horizons, by_horizon
from forecaster.components.base import Block
from forecaster.components.experts.stacking import Stacking
from tests.forecaster.components.blocks import block_of

HORIZON = 3
EXPERTS = ("right", "guess")


def stacked(values: Floats, horizon: int = HORIZON, seed: int = 0) -> tuple[Arrays, Block, Stacking]:
    """Combine three members by `Stacking`: the last value, an almost exact expert, and a random expert."""
    rng = np.random.default_rng(seed)
    block = block_of(values, horizon)
    windows, series = values.shape
    later = np.full((horizon, windows, series), 0.0)
    for h in range(1, horizon + 1):
        later[h - 1, :-h] = values[h:]
    right = np.where(later == 0, block.last, later) + rng.normal(0, 0.1, later.shape)
    guess = block.last + rng.normal(0, 2, later.shape)
    forecasts = {"right": right, "guess": guess}
    changes = {
        name: ((forecast - block.last) / block.scale).astype(np.float32)
        for name, forecast in forecasts.items()
    }
    block = replace(block, members=changes)
    component = Stacking(EXPERTS, horizon, middle=1)
    arrays, block = component.step(component.init(series), block)
    return arrays, block, component


def walk(windows: int = 400, series: int = 2, seed: int = 1) -> Floats:
    steps: Floats = np.random.default_rng(seed).normal(size=(windows, series))
    return steps.cumsum(axis=0)


def test_stacking_is_more_accurate_than_the_two_worst_members() -> None:
    values = walk()
    _, block, _ = stacked(values)
    for h in (1, 3):
        combined = np.abs(values[100 + h :] - block.out.forecast[1, 100:-h, :, h - 1]).mean()
        # The mean error of the worst member, `guess`, is 1.8 at horizon 1 and 2.2 at horizon 3. The mean
        # error of the second worst, which repeats the last value, is 0.8 at horizon 1 and 1.4 at horizon 3.
        assert combined < 0.6


def test_all_members_have_equal_weights_before_the_first_actual() -> None:
    values = walk(5)
    _, block, _ = stacked(values)
    members = [block.last[0], *(block.last[0] + block.scale[0] * block.members[n][0, 0] for n in EXPERTS)]
    np.testing.assert_allclose(block.out.forecast[1, 0, :, 0], np.mean(members, axis=0), atol=1e-6)


def test_stacking_weights_are_a_ridge_regression_on_past_actuals() -> None:
    values = walk(60, 1)
    _, block, component = stacked(values, 1)
    last, scale = block.last[:, 0], block.scale[:, 0]
    moves = block.moves[:, 0]
    x = np.stack([np.zeros(60), *(block.members[n][0, :, 0] for n in EXPERTS)], axis=1)
    x, y = x[:-1][moves[:-1]], (values[1:, 0] - last[:-1])[moves[:-1]]
    y = y / scale[:-1][moves[:-1]]
    age = np.arange(2, 61)[moves[:-1]]
    kept = np.minimum(component.forget, age / (age + component.young))
    decay = np.sqrt(kept[::-1].cumprod()[::-1] / kept)[:, None]
    squares, products = (decay * x).T @ (decay * x), (decay * x).T @ (decay[:, 0] * y)
    ridge = component.shrink * np.trace(squares) / 3
    # The ridge regression shrinks its weights towards ``first``, the weights of Bates and Granger:
    # in ``first``, a member with a larger sum of squared errors has a smaller weight.
    errors = np.square(decay * (x - y[:, None])).sum(axis=0)
    first = (errors + 0.05) ** -component.power / ((errors + 0.05) ** -component.power).sum()
    weights = np.linalg.solve(squares + ridge * np.eye(3), products + ridge * first)
    forecast = np.array([0.0, *(block.members[n][0, -1, 0] for n in EXPERTS)])
    expected = last[-1] + scale[-1] * np.clip(forecast @ weights, forecast.min(), forecast.max())
    np.testing.assert_allclose(block.out.forecast[1, -1, 0, 0], expected, atol=1e-3)


def test_stacking_gives_a_far_worse_member_almost_no_weight() -> None:
    values = walk(600, 1)
    _, block, _ = stacked(values)
    right = block.last + block.scale * block.members["right"][0]
    assert np.abs(block.out.forecast[1, 300:, :, 0] - right[300:]).mean() < 0.15


def test_a_member_regains_its_weight_after_large_early_errors() -> None:
    values = walk(300, 1)
    block = block_of(values, 1)
    nearly = np.append(values[1:, 0], 0.0) + np.where(np.arange(300) < 30, 20.0, 0.1)
    forecast = ((nearly - block.last[:, 0]) / block.scale[:, 0]).astype(np.float32)
    block = replace(block, members={"late": forecast[None, :, None]})
    component = Stacking(("late",), 1, middle=1)
    _, block = component.step(component.init(1), block)
    error = np.abs(block.out.forecast[1, :-1, 0, 0] - values[1:, 0])
    assert error[20:30].mean() < 2.0  # an expert with an error of 20 has a weight of about 0
    assert error[280:].mean() < 0.3


def test_the_stacked_forecast_of_very_wrong_members_is_finite() -> None:
    # After 2400 windows, the sums of squared errors are so large that their inverse 8th powers would
    # underflow float32 to 0, unless `_ridge` divided the sums by the smallest sum first.
    values = walk(2400, 1)
    block = block_of(values, 1)
    block = replace(block, members={"lost": np.full((1, 2400, 1), 1e9, np.float32)})
    block.out.forecast[:] = -1e9
    component = Stacking(("lost",), 1, middle=1)
    _, block = component.step(component.init(1), block)
    assert np.isfinite(block.out.forecast).all()


def test_residuals_are_nan_without_an_earlier_forecast() -> None:
    """A residual is a window's value minus the earlier forecast for the window.

    Also, an outlier at window 10 changes no forecast issued before window 7: the horizon is 3.
    """
    values = walk(12, 1)
    other = values.copy()
    other[10] += 50.0  # the expert ``right`` forecasts this outlier from window 7 on
    _, one, _ = stacked(values)
    _, two, _ = stacked(other)
    np.testing.assert_array_equal(one.out.forecast[:, :7], two.out.forecast[:, :7])
    assert np.isnan(one.residuals[0]).all()  # NaN: no forecast was issued for the first window
    assert np.isnan(one.residuals[2, -1]).all()
    assert not np.isnan(one.residuals[5]).any()


def test_interpolation_keeps_the_anchor_weights_and_their_sum() -> None:
    """Weights are computed only at the anchor horizons; a matrix interpolates them to all horizons.

    Each row of the matrix sums to 1. So if the weights at each anchor horizon have the same sum, the weights
    at every horizon have this sum.
    """
    assert anchor_horizons(1) == (1,)
    assert anchor_horizons(24) == (1, 2, 4, 8, 16, 24)
    spread = by_horizon(anchor_horizons(10), 10)
    np.testing.assert_allclose(spread.sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(spread[np.array(anchor_horizons(10)) - 1], np.eye(5), atol=1e-6)
