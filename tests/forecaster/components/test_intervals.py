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
    """The last value with intervals; the network's own quantiles are ``network`` apart."""
    block = block_of(values, HORIZON, len(levels))
    middle = levels.index(0.5)
    for q in range(len(levels)):
        block.out.forecast[q] += network * (q - middle)
    stacking, intervals = Stacking((), HORIZON, middle), Intervals(levels, HORIZON)
    _, block = stacking.step(stacking.init(values.shape[1]), block)
    return intervals.step(intervals.init(values.shape[1]), block)[1]


def coverage(block: Block, values: Floats, h: int, first: int = 200) -> Floats:
    low, high = block.out.forecast[0, first:-h, :, h - 1], block.out.forecast[-1, first:-h, :, h - 1]
    truth = values[first + h :]
    share: Floats = ((low <= truth) & (truth <= high)).mean(axis=0)
    return share


@pytest.mark.parametrize("h", [1, 4])
def test_as_many_values_lie_within_as_promised_whatever_the_series_does(h: int) -> None:
    chance = np.random.default_rng(0)
    windows = 8000
    louder = np.where(np.arange(windows) % 2000 < 1000, 1.0, 3.0)
    steps = np.stack(
        [
            chance.normal(size=windows),
            chance.standard_t(2.5, windows),  # heavy tails
            chance.exponential(size=windows),  # one-sided
            louder * chance.normal(size=windows),  # of changing variance
        ],
        axis=1,
    )
    values = steps.cumsum(axis=0)
    # One-sided steps have both quantiles above the forecast: they need some thousand windows to get there.
    np.testing.assert_allclose(coverage(calibrated(values), values, h, 3000), 0.9, atol=0.02)


def test_quantiles_never_cross() -> None:
    values = np.random.default_rng(1).standard_t(2, (800, 3)).cumsum(axis=0)
    values[300:320] *= 50
    block = calibrated(values, (0.05, 0.25, 0.4, 0.5, 0.6, 0.95))
    assert (np.diff(block.out.forecast, axis=0) >= 0).all()


def test_before_a_residual_has_come_the_networks_quantiles_count() -> None:
    values = np.random.default_rng(2).normal(size=(50, 1)).cumsum(axis=0)
    block = calibrated(values, network=0.7)
    np.testing.assert_allclose(block.out.forecast[2, 0, 0] - block.out.forecast[1, 0, 0], 0.7)


def test_a_series_that_stands_still_keeps_the_networks_quantiles() -> None:
    values = np.full((300, 1), 5.0)
    block = calibrated(values, network=0.7)
    np.testing.assert_allclose(block.out.forecast[2, -1, 0] - block.out.forecast[1, -1, 0], 0.7)


def test_missing_windows_are_no_evidence() -> None:
    chance = np.random.default_rng(3)
    values = chance.normal(size=(4000, 2)).cumsum(axis=0)
    values[chance.random(values.shape) < 0.3] = np.nan
    block = calibrated(values)
    low, high = block.out.forecast[0, 200:-1, :, 0], block.out.forecast[-1, 200:-1, :, 0]
    truth = values[201:]
    inside = np.where(np.isnan(truth), np.nan, (low <= truth) & (truth <= high))
    np.testing.assert_allclose(np.nanmean(inside, axis=0), 0.9, atol=0.015)


def test_one_outlier_is_forgotten_in_a_day() -> None:
    values = np.random.default_rng(4).normal(size=(1000, 1))
    broken = values.copy()
    broken[600] = 1e6
    one, two = (calibrated(v).out.forecast[:, :, 0, 0] for v in (values, broken))
    width = lambda found: (found[2] - found[0])[630:].mean()  # noqa: E731
    assert width(two) < 1.5 * width(one)


def test_blocks_and_padding_are_no_matter() -> None:
    values = np.random.default_rng(5).normal(size=(40, 2)).cumsum(axis=0)
    stacking, intervals = Stacking((), HORIZON, 1), Intervals(LEVELS, HORIZON)
    whole = block_of(values, HORIZON)
    padded = replace(whole, lengths=np.array([40, 25]), start=np.array([0, 0]))
    own = stacking.step(stacking.init(2), padded)
    after, _ = intervals.step(intervals.init(2), own[1])
    short = block_of(values[:25], HORIZON)
    own = stacking.step(stacking.init(2), short)
    expected, _ = intervals.step(intervals.init(2), own[1])
    for name, array in expected.items():
        np.testing.assert_allclose(after[name][1], array[1], err_msg=name)
