"""Law: after 100,000 windows the float32 arrays of a state still agree with a float64 reference.

Rounding errors can grow from step to step only in least squares; the other components forget old rounding
errors as fast as new ones appear. So the test of least squares always runs through 100,000 windows. The test
of a forecaster with every component except observed covariates runs through 5,000 windows by default, and
through 100,000 with `make long-run`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from forecaster.arrays import Floats
from forecaster.components.experts.least_squares import LeastSquares
from forecaster.model import Forecaster
from forecaster.state import State
from forecaster.stepping.advance import advance_in_place
from tests.fleets import SHORT_WEEK, START, forecaster
from tests.kinds import kinds
from tests.precision import double_precision, in_double_precision

WINDOWS = 100_000
CHAIN_WINDOWS = int(os.environ.get("LONG_RUN_WINDOWS", "5000"))
# The values of a smooth series at neighbouring lags are nearly equal, so a least-squares regression on them
# magnifies rounding errors.
LAGS = (1, 2, 3, 22, 23, 24)


@pytest.fixture(scope="module")
def regressors() -> Floats:
    """Return inputs and targets of a least-squares regression for two series, a noisy and a smooth wave.

    The array is ``[windows, L + 1, 2]``. Its second axis contains the values at ``L`` lags (the inputs) and
    then the next value (the target). Each entry is the difference from the last value, divided by the scale
    of the series.
    """
    rng, t = np.random.default_rng(0), np.arange(WINDOWS + 25)
    waves = np.stack([np.sin(2 * np.pi * t / 24), 5 * np.sin(2 * np.pi * t / 24 + 1)], axis=1)
    values = waves + np.array([1.0, 0.02]) * rng.normal(size=(len(t), 2))
    scale = np.abs(np.diff(values, axis=0)).mean(axis=0)
    at = np.arange(24, WINDOWS + 24)
    return np.stack([(values[at - lag] - values[at]) / scale for lag in (*LAGS, -1)], axis=1)


def forecast_and_learn(
    expert: LeastSquares, x: Floats, dtype: DTypeLike
) -> tuple[Floats, NDArray[Any], NDArray[Any]]:
    """Return the forecasts of least squares, which learns each target after it has forecast the target.

    The other results are the inverse matrix and the weights after the last update.
    """
    own = {name: array.astype(dtype) for name, array in expert.init(2).items() if name != "known"}
    weights, inverse = (np.moveaxis(own[name], 0, -1).copy() for name in ("weights", "inverse"))
    learns, forecast = np.ones(2, bool), np.empty((len(x), 2))
    for t, row in enumerate(x.astype(np.float32)):
        forecast[t] = (weights * row[:-1]).sum(axis=0)
        expert._update(weights, inverse, row[:-1], row[-1], learns)
    return forecast, np.moveaxis(inverse, -1, 0), weights


def test_least_squares_expert_in_float32_stays_close_to_float64(regressors: Floats) -> None:
    expert = LeastSquares("x", 1, LAGS, forget=0.999)
    short, inverse, _ = forecast_and_learn(expert, regressors, np.float32)
    reference, _, _ = forecast_and_learn(expert, regressors, np.float64)
    assert np.abs(short - reference).max() <= 1e-3
    np.testing.assert_array_equal(inverse, inverse.swapaxes(1, 2))
    assert (np.linalg.eigvalsh(inverse.astype(np.float64)) > 0).all()


KINDS = ("noise", "day", "heavy_tails", "walk", "counts", "steps", "shop", "on_and_off", "rare_events")


@dataclass
class Chain:
    """The outputs of a forecaster for ``T`` windows, and its last state.

    The forecaster has every component except observed covariates.

    Attributes:
        forecast: ``[Q, T, S, N]``, divided by the mean absolute change of each series.
        anomaly: ``[2, T, S]``, p-values and alarms.
        state: the state after the last window.
    """

    forecast: Floats
    anomaly: Floats
    state: State


def stepped(model: Forecaster, values: Floats) -> Chain:
    """Step ``model`` through ``values`` ``[T, S]``; return its outputs and its last state."""
    state = model.new_series_state(tuple(str(s) for s in range(values.shape[1])), START)
    parts = [
        advance_in_place(model, state, values[first : first + 1000], START + first)
        for first in range(0, len(values), 1000)
    ]
    forecast = np.concatenate([part.values for part in parts], axis=1)
    anomaly = [part.anomaly for part in parts if part.anomaly is not None]
    scale = np.abs(np.diff(values, axis=0)).mean(axis=0)
    return Chain(forecast / scale[:, None], np.concatenate(anomaly, axis=1), state)


@pytest.fixture(scope="module")
def chains() -> tuple[Chain, Chain]:
    """Return the outputs of one forecaster, computed once with float32 and once with float64 arrays."""
    series = kinds(CHAIN_WINDOWS)
    # Float32 values near 1e9 are 64 apart, and this series usually changes by about 1 in each window.
    meter = 1e9 + series["drift"]
    values = np.stack([*(series[name] for name in KINDS), meter], axis=1)
    model = forecaster(horizon=2, **SHORT_WEEK)
    short = stepped(model, values)
    with double_precision():
        return short, stepped(in_double_precision(model), values)


def test_forecasts_of_a_long_run_in_float32_agree_with_float64(chains: tuple[Chain, Chain]) -> None:
    short, reference = chains
    off = np.abs(short.forecast - reference.forecast)
    assert off[:, -1000:].max() <= 1e-3
    # Check all windows, with a larger limit: the difference could exceed even this limit after only one of
    # the two runs has reset the inverse matrix of a regression.
    assert off.max() <= 1e-2


def test_anomaly_p_values_and_alarm_counts_agree_with_float64(chains: tuple[Chain, Chain]) -> None:
    short, reference = chains
    off = np.abs(short.anomaly[0] - reference.anomaly[0])
    assert np.nanmax(off[-1000:]) <= 5e-3
    alarms, expected = (np.nansum(chain.anomaly[1], axis=0) for chain in chains)
    assert np.abs(alarms - expected).max() <= 1


def test_states_of_a_long_float32_run_agree_with_float64(chains: tuple[Chain, Chain]) -> None:
    short, reference = chains
    float32_arrays = 0
    for name, own in reference.state.parts.items():
        for f, expected in own.items():
            array = short.state.parts[name][f]
            float32_arrays += array.dtype == np.float32
            assert expected.dtype != np.float32, f"{name}.{f} has no reference"
            axes = tuple(range(1, expected.ndim))
            largest = np.nanmax(np.abs(expected, dtype=float), axis=axes, initial=1e-3, keepdims=True)
            off = np.abs(array.astype(np.float64) - expected) / largest
            assert (np.isnan(array) == np.isnan(expected)).all(), f"{name}.{f}"
            assert np.nanmax(off, initial=0.0) <= 1e-3, f"{name}.{f} is off by {np.nanmax(off)}"
    assert float32_arrays >= 12
