"""Tests of `Moments`, the component that tracks the mean, scale, unit and spread of each series."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.arrays import Arrays, Floats
from forecaster.components.base import Block
from forecaster.components.moments import Moments
from forecaster.components.network.inputs import input_components
from forecaster.config import NetworkConfig
from forecaster.time.frequency import Frequency
from tests.fleets import HOUR

SEASON = 7  # the season of daily windows is a week


def step_moments(values: Floats, halflife: int = 20, prior: float = 0.0) -> tuple[Arrays, Block]:
    """Step daily windows ``[T]`` or ``[T, S]`` through `Ring` and `Moments`.

    Returns:
        The arrays of `Moments`, and the block.
    """
    columns = values.reshape(len(values), -1)
    config = NetworkConfig(halflife=halflife, ring=8, lags=(1,))
    block = Block(np.array([0]), columns, Frequency(86_400))
    after: Arrays = {}
    for part in input_components(config, Frequency(86_400), prior):
        after, block = part.step(part.init(columns.shape[1]), block)
    return after, block


def test_after_one_halflife_old_values_have_half_of_the_weight() -> None:
    moments = Moments(20, 0.0)
    values = np.array([-1.0, 1.0] * 250 + [10.0] * 20)[:, None]
    after, block = moments.step(moments.init(1), Block(np.array([0]), values, HOUR))
    assert after["mean"][0] == pytest.approx((block.mean[499, 0] + 10.0) / 2, abs=1e-6)


def test_one_outlier_does_not_change_the_scale_of_a_constant_series() -> None:
    values = np.array([5.0] * 30 + [1e6] + [5.0] * 30)
    after, block = step_moments(values)
    assert not block.moves.any()
    assert (block.scale[-1, 0], after["fast"][0], after["slow"][0]) == (block.scale[0, 0], 0.0, 0.0)
    assert (after["mean"][0], after["variance"][0], after["seasonal"][0]) == (5.0, 0.0, 0.0)


def test_a_constant_series_counts_as_constant_after_a_jump() -> None:
    after, block = step_moments(np.array([5.0] * 30 + [500.0] * 2))
    assert (after["mean"][0], after["fast"][0]) == (500.0, 0.0)
    assert not block.moves.any()


def test_constant_series_count_as_changing_from_their_third_change() -> None:
    _, block = step_moments(np.array([0.0] * 30 + [3.0, 0.0, 0.0, 0.0, 6.0, 0.0]))
    assert block.moves[:, 0].tolist() == [False] * 34 + [True] * 2
    assert block.scale[34, 0] == pytest.approx(6.0 / 33 * max(1.0, 33 * (1 - 2 ** (-1 / 20))))


def test_mean_spread_and_unit_weigh_the_first_values_equally() -> None:
    values = 100 + np.random.default_rng(0).normal(size=25)
    _, block = step_moments(values, halflife=1000)
    assert block.mean[-1, 0] == pytest.approx(values.mean())
    assert block.spread[-1, 0] == pytest.approx(values.std())
    assert block.unit[-1, 0] == pytest.approx(np.abs(values[SEASON:] - values[:-SEASON]).mean())
    assert (block.lowest[-1, 0], block.highest[-1, 0]) == (values.min(), values.max())


def test_the_unit_ignores_gaps_and_needs_no_full_season() -> None:
    values = np.random.default_rng(0).normal(size=40).cumsum()
    values[[3, 11, 12, 20]] = np.nan
    _, block = step_moments(values, halflife=1000)
    assert (block.unit[1:] > 0.05).all()
    change = np.abs(values[SEASON:] - values[:-SEASON])
    assert block.unit[-1, 0] == pytest.approx(np.nanmean(change))


@pytest.mark.parametrize("size", [1e3, 1e9, 1e15])
def test_one_outlier_does_not_double_scale_unit_or_spread(size: float) -> None:
    values = np.random.default_rng(0).normal(size=400)
    broken = values.copy()
    broken[300] = size
    (_, one), (_, other) = step_moments(values, halflife=168), step_moments(broken, halflife=168)
    for name in ("scale", "unit", "spread"):
        assert getattr(other, name)[399, 0] < 2 * getattr(one, name)[399, 0], name


def test_scale_and_unit_grow_soon_after_constant_values_begin_to_change() -> None:
    values = np.concatenate([np.full(500, 7.0), 100 * np.random.default_rng(0).normal(size=120)])
    _, block = step_moments(values, halflife=20)
    assert block.scale[-1, 0] > 50
    assert block.unit[-1, 0] > 50


def test_scale_and_unit_of_one_value_are_computed_from_the_prior() -> None:
    """The prior is the usual relative change of the training series."""
    _, block = step_moments(np.array([200.0]), prior=0.1)
    assert block.scale[0, 0] == pytest.approx(20.0)
    assert block.unit[0, 0] == pytest.approx(20.0)


@pytest.mark.parametrize("level", [0.0, -3.0, 1e9, 1e-9])
def test_scale_unit_and_spread_of_constant_series_are_positive(level: float) -> None:
    _, block = step_moments(np.full(60, level))
    for array in (block.scale, block.unit, block.spread):
        assert (array > 0).all()
    assert not block.moves[2:].any()
