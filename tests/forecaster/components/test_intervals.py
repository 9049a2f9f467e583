"""Tests that calibrated prediction intervals contain the intended share of the actuals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forecaster.arrays import Floats
from forecaster.components.base import Block
from forecaster.components.experts.stacking import Stacking
from forecaster.components.intervals import Intervals
from tests.forecaster.components.blocks import block_of

LEVELS = (0.05, 0.5, 0.95)
HORIZON = 4


def calibrated(values: Floats, levels: tuple[float, ...] = LEVELS, network: float = 0.01) -> Block:
    """Return a block with forecasts of the last value, after `Intervals` has calibrated their quantiles.

    Before the calibration, the median is the last value, and neighbouring quantiles are ``network`` apart.
    """
    block = block_of(values, HORIZON, len(levels))
    middle = levels.index(0.5)
    for q in range(len(levels)):
        block.out.forecast[q] += network * (q - middle)
    stacking, intervals = Stacking((), HORIZON, middle), Intervals(levels, HORIZON)
    _, block = stacking.step(stacking.init(values.shape[1]), block)
    return intervals.step(intervals.init(values.shape[1]), block)[1]


def coverage(block: Block, values: Floats, h: int, first: int = 200) -> Floats:
    """Return, by series, the share of actuals between the outer quantiles at horizon ``h``.

    Rows before ``first`` do not count.
    """
    low, high = block.out.forecast[0, first:-h, :, h - 1], block.out.forecast[-1, first:-h, :, h - 1]
    actual = values[first + h :]
    share: Floats = ((low <= actual) & (actual <= high)).mean(axis=0)
    return share


@pytest.mark.parametrize("h", [1, 4])
def test_intervals_reach_their_coverage_for_four_kinds_of_noise(h: int) -> None:
    rng = np.random.default_rng(0)
    windows = 8000
    noise_level = np.where(np.arange(windows) % 2000 < 1000, 1.0, 3.0)
    steps = np.stack(
        [
            rng.normal(size=windows),
            rng.standard_t(2.5, windows),  # heavy tails
            rng.exponential(size=windows),  # one-sided
            noise_level * rng.normal(size=windows),  # changing variance
        ],
        axis=1,
    )
    values = steps.cumsum(axis=0)
    # The first 3,000 windows are skipped, because the intervals are still adapting in these windows.
    # The intervals adapt slowest to one-sided noise: even the lowest quantile must rise above the last value.
    np.testing.assert_allclose(coverage(calibrated(values), values, h, 3000), 0.9, atol=0.02)


def test_calibrated_quantiles_never_cross() -> None:
    values = np.random.default_rng(1).standard_t(2, (800, 3)).cumsum(axis=0)
    values[300:320] *= 50
    block = calibrated(values, (0.05, 0.25, 0.4, 0.5, 0.6, 0.95))
    assert (np.diff(block.out.forecast, axis=0) >= 0).all()


def test_intervals_equal_the_network_intervals_until_the_first_actual() -> None:
    values = np.random.default_rng(2).normal(size=(50, 1)).cumsum(axis=0)
    block = calibrated(values, network=0.7)
    np.testing.assert_allclose(block.out.forecast[2, 0, 0] - block.out.forecast[1, 0, 0], 0.7)


def test_calibration_does_not_change_quantiles_of_a_constant_series() -> None:
    values = np.full((300, 1), 5.0)
    block = calibrated(values, network=0.7)
    np.testing.assert_allclose(block.out.forecast[2, -1, 0] - block.out.forecast[1, -1, 0], 0.7)


def test_intervals_cover_90_percent_with_30_percent_missing_values() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(4000, 2)).cumsum(axis=0)
    values[rng.random(values.shape) < 0.3] = np.nan
    block = calibrated(values)
    low, high = block.out.forecast[0, 200:-1, :, 0], block.out.forecast[-1, 200:-1, :, 0]
    actual = values[201:]
    inside = np.where(np.isnan(actual), np.nan, (low <= actual) & (actual <= high))
    np.testing.assert_allclose(np.nanmean(inside, axis=0), 0.9, atol=0.015)


def test_intervals_recover_from_an_outlier_within_30_windows() -> None:
    values = np.random.default_rng(4).normal(size=(1000, 1))
    broken = values.copy()
    broken[600] = 1e6
    one, two = (calibrated(v).out.forecast[:, :, 0, 0] for v in (values, broken))
    width = lambda quantiles: (quantiles[2] - quantiles[0])[630:].mean()  # noqa: E731
    assert width(two) < 1.5 * width(one)


def test_padding_a_shorter_series_leaves_its_learned_intervals_unchanged() -> None:
    values = np.random.default_rng(5).normal(size=(40, 2)).cumsum(axis=0)
    stacking, intervals = Stacking((), HORIZON, 1), Intervals(LEVELS, HORIZON)
    whole = block_of(values, HORIZON)
    padded = replace(whole, lengths=np.array([40, 25]), start=np.array([0, 0]))
    stacked = stacking.step(stacking.init(2), padded)
    after, _ = intervals.step(intervals.init(2), stacked[1])
    short = block_of(values[:25], HORIZON)
    stacked = stacking.step(stacking.init(2), short)
    expected, _ = intervals.step(intervals.init(2), stacked[1])
    for name, array in expected.items():
        np.testing.assert_allclose(after[name][1], array[1], err_msg=name)
