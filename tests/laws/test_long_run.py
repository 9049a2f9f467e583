"""Law: after 100,000 windows what is kept in float32 agrees with a float64 reference, with no reset."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from forecaster.arrays import Floats
from forecaster.components.experts.least_squares import LeastSquares

WINDOWS = 100_000
LAGS = (1, 2, 3, 22, 23, 24)  # neighbours of a smooth series are nearly the same: the hardest to tell apart


@pytest.fixture(scope="module")
def regressors() -> Floats:
    """``[windows, L + 1, 2]`` how far lags, and the value that follows, lie from the last value, in scales.

    Of a noisy and of a smooth daily wave.
    """
    chance, t = np.random.default_rng(0), np.arange(WINDOWS + 25)
    waves = np.stack([np.sin(2 * np.pi * t / 24), 5 * np.sin(2 * np.pi * t / 24 + 1)], axis=1)
    values = waves + np.array([1.0, 0.02]) * chance.normal(size=(len(t), 2))
    scale = np.abs(np.diff(values, axis=0)).mean(axis=0)
    at = np.arange(24, WINDOWS + 24)
    return np.stack([(values[at - lag] - values[at]) / scale for lag in (*LAGS, -1)], axis=1)


def learned(expert: LeastSquares, x: Floats, dtype: DTypeLike) -> tuple[Floats, NDArray[Any], NDArray[Any]]:
    """What it forecast for each window before it learned it, and its inverse and weights in the end."""
    own = {name: array.astype(dtype) for name, array in expert.init(2).items() if name != "known"}
    weights, inverse = (np.moveaxis(own[name], 0, -1).copy() for name in ("weights", "inverse"))
    learns, forecast = np.ones(2, bool), np.empty((len(x), 2))
    for t, row in enumerate(x.astype(np.float32)):
        forecast[t] = (weights * row[:-1]).sum(axis=0)
        expert._update(weights, inverse, row[:-1], row[-1], learns)
    return forecast, np.moveaxis(inverse, -1, 0), weights


def test_least_squares_in_float32_agree_with_float64(regressors: Floats) -> None:
    expert = LeastSquares("x", 1, LAGS, forget=0.999)
    short, inverse, _ = learned(expert, regressors, np.float32)
    reference, _, _ = learned(expert, regressors, np.float64)
    assert np.abs(short - reference).max() <= 1e-3
    np.testing.assert_array_equal(inverse, inverse.swapaxes(1, 2))
    assert (np.linalg.eigvalsh(inverse.astype(np.float64)) > 0).all()
