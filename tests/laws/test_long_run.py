"""Law: after 100,000 windows without a reset, state in float32 agrees with a float64 reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from forecaster.arrays import Floats
from forecaster.components.experts.least_squares import LeastSquares

WINDOWS = 100_000
LAGS = (1, 2, 3, 22, 23, 24)  # neighbouring lags of a smooth series are almost collinear, the hardest case


@pytest.fixture(scope="module")
def regressors() -> Floats:
    """Return ``[windows, L + 1, 2]`` inputs and targets of the regression, for a noisy and a smooth wave.

    They are the values at ``L`` lags and then the next value, each minus the last value, in scales.
    """
    chance, t = np.random.default_rng(0), np.arange(WINDOWS + 25)
    waves = np.stack([np.sin(2 * np.pi * t / 24), 5 * np.sin(2 * np.pi * t / 24 + 1)], axis=1)
    values = waves + np.array([1.0, 0.02]) * chance.normal(size=(len(t), 2))
    scale = np.abs(np.diff(values, axis=0)).mean(axis=0)
    at = np.arange(24, WINDOWS + 24)
    return np.stack([(values[at - lag] - values[at]) / scale for lag in (*LAGS, -1)], axis=1)


def forecast_and_learn(
    expert: LeastSquares, x: Floats, dtype: DTypeLike
) -> tuple[Floats, NDArray[Any], NDArray[Any]]:
    """Forecast each window, then learn from it; return the forecasts, the last inverse and weights."""
    own = {name: array.astype(dtype) for name, array in expert.init(2).items() if name != "known"}
    weights, inverse = (np.moveaxis(own[name], 0, -1).copy() for name in ("weights", "inverse"))
    learns, forecast = np.ones(2, bool), np.empty((len(x), 2))
    for t, row in enumerate(x.astype(np.float32)):
        forecast[t] = (weights * row[:-1]).sum(axis=0)
        expert._update(weights, inverse, row[:-1], row[-1], learns)
    return forecast, np.moveaxis(inverse, -1, 0), weights


def test_least_squares_in_float32_agree_with_float64(regressors: Floats) -> None:
    expert = LeastSquares("x", 1, LAGS, forget=0.999)
    short, inverse, _ = forecast_and_learn(expert, regressors, np.float32)
    reference, _, _ = forecast_and_learn(expert, regressors, np.float64)
    assert np.abs(short - reference).max() <= 1e-3
    np.testing.assert_array_equal(inverse, inverse.swapaxes(1, 2))
    assert (np.linalg.eigvalsh(inverse.astype(np.float64)) > 0).all()
