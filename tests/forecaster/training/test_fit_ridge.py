from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forecaster.arrays import Floats32
from forecaster.config import NetworkConfig
from forecaster.state import Floats
from forecaster.time.frequency import Frequency
from forecaster.time.windows import Windows
from forecaster.training.batches import Fleet, fleet_of
from forecaster.training.fit_ridge import fit_linear, typical_change
from tests.fleets import START

HOUR = Frequency(3600)
NETWORK = NetworkConfig(horizon=5, ring=30, lags=(1,))


def fleet(values: Floats, held_from: int | None = None) -> Fleet:
    names = tuple(f"s{i}" for i in range(values.shape[1]))
    return fleet_of(Windows(names, START, values), NETWORK, HOUR, 4, held_from)


def autoregression(windows: int = 1500, series: int = 6) -> Floats:
    """Each value is what 24 windows before there was, halved, and noise; of any size and level."""
    chance = np.random.default_rng(0)
    noise = chance.normal(size=(windows + 24, series))
    for t in range(24, windows + 24):
        noise[t] += 0.5 * noise[t - 24]
    return noise[24:] * 10.0 ** np.arange(series) + 1000.0


def error(ridge: Floats32, made: Fleet, rows: slice) -> Floats:
    """``[N]`` mean absolute error in units, over the rows of the first batch."""
    batch = made.knowing(ridge, 0.0).batch(0)
    at = np.arange(len(batch))[rows]
    said = batch.experts(at)
    assert said is not None
    off: Floats = np.nanmean(np.abs(batch.targets(at)[None] - said.numpy()), axis=(1, 2))
    return off


def test_a_season_is_found() -> None:
    made = fleet(autoregression(), 1200)
    off = error(fit_linear(made), made, slice(1200, None))
    for k in (0, 1):
        # The best that can be done is 0.87 of the last season's, and 0.61 of the last value's.
        assert (off[k] < 0.93 * off[2]).all()
        assert (off[k] < 0.7 * off[5]).all()


def test_what_moves_by_shares_is_best_told_in_logarithms() -> None:
    noise = np.random.default_rng(0).normal(size=(1524, 6))
    for t in range(24, len(noise)):
        noise[t] += 0.8 * noise[t - 24]
    made = fleet(np.exp(noise[24:]) * 10.0 ** np.arange(6), 1200)
    off = error(fit_linear(made), made, slice(1200, None))
    assert (off[-1] < 0.95 * off[0]).all()
    assert (off[-1] < 0.95 * off[1]).all()


def test_it_learns_nothing_from_what_is_held_out() -> None:
    values = np.abs(autoregression(400)) + 1.0  # such that there is a regression in logarithms, too
    other = values.copy()
    other[300:] = 1e6 * np.random.default_rng(1).normal(size=other[300:].shape)
    one, two = (fleet(v, 300) for v in (values, other))
    np.testing.assert_array_equal(fit_linear(one), fit_linear(two))
    assert typical_change(one) == typical_change(two)
    assert np.abs(fit_linear(one) - fit_linear(fleet(other))).max() > 1e-3


def test_a_series_weighs_by_its_errors_in_its_own_unit() -> None:
    values = autoregression()
    ridges = [fit_linear(fleet(values * size)) for size in (1.0, np.array([1, 1e6, 1, 1e-6, 1, 1]))]
    np.testing.assert_allclose(ridges[0], ridges[1], atol=2e-3)


@pytest.mark.parametrize("windows", [2, 5, 20])
def test_too_little_to_learn_from_is_the_last_value_or_near(windows: int) -> None:
    ridge = fit_linear(fleet(autoregression(windows)))
    assert ridge.shape == (3, 30, 5)
    assert np.isfinite(ridge).all()
    if windows <= 5:
        assert (ridge == 0).all()


def test_gaps_constant_and_broken_series_give_numbers() -> None:
    values = autoregression(400)
    values[::7, 0], values[:, 1], values[200, 2], values[:, 3] = np.nan, 5.0, 1e15, np.nan
    assert np.isfinite(fit_linear(fleet(values))).all()


def test_the_typical_change_is_a_share_of_the_value_of_the_middle_series() -> None:
    steps = np.resize([0.0, 1.0], 100)[:, None]
    values = np.concatenate([99.5 + steps, 10 * (9.5 + steps), 0 * steps], axis=1)
    assert typical_change(fleet(values)) == pytest.approx((0.01 + 0.1) / 2)
    one = replace(fleet(values), held_from=1)
    assert typical_change(one) == 0.0
