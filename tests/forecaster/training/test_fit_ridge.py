"""Tests of the fit of the ridge regressions, which are some of the linear experts of the network."""

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
    """Return series around 1000 that differ in scale.

    Each value's difference from 1000 is half the difference 24 windows before, plus noise.
    """
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(windows + 24, series))
    for t in range(24, windows + 24):
        noise[t] += 0.5 * noise[t - 24]
    return noise[24:] * 10.0 ** np.arange(series) + 1000.0


def errors_by_expert(ridge: Floats32, made: Fleet, rows: slice) -> Floats:
    """Return the mean absolute error of each linear expert at each horizon in the first batch, ``[K, N]``.

    K is the number of linear experts, N the number of horizons. ``rows`` selects windows of the batch; the
    errors, in units, are means over the forecasts of all series from these windows.
    """
    batch = made.with_linear_part(ridge, 0.0).batch(0)
    at = np.arange(len(batch))[rows]
    forecasts = batch.experts(at)
    assert forecasts is not None
    errors: Floats = np.nanmean(np.abs(batch.targets(at)[None] - forecasts.numpy()), axis=(1, 2))
    return errors


def test_ridge_errors_are_below_last_value_and_season_errors() -> None:
    made = fleet(autoregression(), 1200)
    errors = errors_by_expert(fit_linear(made), made, slice(1200, None))
    for k in (0, 1):
        # The error of a ridge regression with the coefficients of `autoregression` would be 0.87 times the
        # error ``errors[2]`` of the expert that repeats the last season, and 0.61 times the error
        # ``errors[5]`` of the expert that repeats the last value.
        assert (errors[k] < 0.93 * errors[2]).all()
        assert (errors[k] < 0.7 * errors[5]).all()


def test_log_ridge_beats_other_ridges_if_logs_are_autoregressive() -> None:
    noise = np.random.default_rng(0).normal(size=(1524, 6))
    for t in range(24, len(noise)):
        noise[t] += 0.8 * noise[t - 24]
    made = fleet(np.exp(noise[24:]) * 10.0 ** np.arange(6), 1200)
    errors = errors_by_expert(fit_linear(made), made, slice(1200, None))
    assert (errors[-1] < 0.95 * errors[0]).all()
    assert (errors[-1] < 0.95 * errors[1]).all()


def test_held_out_windows_do_not_change_the_ridge_weights() -> None:
    values = np.abs(autoregression(400)) + 1.0  # the log ridge is fitted too, as all values are above 0
    other = values.copy()
    other[300:] = 1e6 * np.random.default_rng(1).normal(size=other[300:].shape)
    one, two = (fleet(v, 300) for v in (values, other))
    np.testing.assert_array_equal(fit_linear(one), fit_linear(two))
    assert typical_change(one) == typical_change(two)
    assert np.abs(fit_linear(one) - fit_linear(fleet(other))).max() > 1e-3


def test_ridge_weights_do_not_depend_on_series_scale() -> None:
    values = autoregression()
    ridges = [fit_linear(fleet(values * size)) for size in (1.0, np.array([1, 1e6, 1, 1e-6, 1, 1]))]
    np.testing.assert_allclose(ridges[0], ridges[1], atol=2e-3)


@pytest.mark.parametrize("windows", [2, 5, 20])
def test_ridge_weights_from_up_to_five_windows_are_zero(windows: int) -> None:
    ridge = fit_linear(fleet(autoregression(windows)))
    assert ridge.shape == (3, 30, 5)
    assert np.isfinite(ridge).all()
    if windows <= 5:
        assert (ridge == 0).all()


def test_gaps_constants_and_outliers_give_finite_ridge_weights() -> None:
    values = autoregression(400)
    values[::7, 0], values[:, 1], values[200, 2], values[:, 3] = np.nan, 5.0, 1e15, np.nan
    assert np.isfinite(fit_linear(fleet(values))).all()


def test_typical_change_is_the_median_over_series_of_relative_changes() -> None:
    steps = np.resize([0.0, 1.0], 100)[:, None]
    values = np.concatenate([99.5 + steps, 10 * (9.5 + steps), 0 * steps], axis=1)
    assert typical_change(fleet(values)) == pytest.approx((0.01 + 0.1) / 2)
    one = replace(fleet(values), held_from=1)
    assert typical_change(one) == 0.0
