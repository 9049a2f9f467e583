"""Tests of the measures of forecasts, such as MASE, WQL and coverage, against their definitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.arrays import Bools, Floats
from forecaster.evaluation.metrics import Measures, Tally, seasonal_scale

LEVELS = (0.025, 0.05, 0.5, 0.95, 0.975)


def block(seed: int, windows: int, series: int, horizon: int) -> tuple[Floats, Floats, Bools]:
    """Return random actuals, random forecasts, and a mask of the actuals to score.

    Returns:
        Actuals ``[T, S, N]``, quantiles ``[Q, T, S, N]`` independent of the actuals, and a mask ``[T, S, N]``
        of the pairs that count. Half of the actuals and of the quantiles outside the mask are NaN.
    """
    rng = np.random.default_rng(seed)
    shape = (windows, series, horizon)
    actual = rng.normal(size=shape) * 3 + np.arange(series)[:, None]
    quantiles = np.sort(rng.normal(size=(len(LEVELS), *shape)), axis=0) * 2
    counted = rng.random(shape) < 0.7
    counted[0, 0, 0] = True
    actual[~counted & (rng.random(shape) < 0.5)] = np.nan
    quantiles[:, ~counted & (rng.random(shape) < 0.5)] = np.nan
    return actual, quantiles, counted


def looped_measures(
    actual: Floats, quantiles: Floats, counted: Bools, horizon: int, unit: Floats
) -> dict[str, Any]:
    """Return the measures, computed from their definitions with plain loops over actuals and forecasts."""
    found: dict[str, list[float]] = {}
    losses, size, coverages = np.zeros(len(LEVELS)), 0.0, {}
    for s in range(actual.shape[1]):
        own: dict[str, list[float]] = {}
        for t, h in zip(*np.nonzero(counted[:, s, :horizon]), strict=True):
            y, q = float(actual[t, s, h]), quantiles[:, t, s, h]
            error, point = abs(y - q[2]), q[2]
            low, high, alpha = q[0], q[-1], 0.05
            interval = high - low + 2 / alpha * max(low - y, 0) + 2 / alpha * max(y - high, 0)
            for name, value in {
                "mse": error**2,
                "mae": error,
                "mase": error / unit[s],
                "smape": 200 * error / (abs(y) + abs(point)),
                "msis": interval / unit[s],
            }.items():
                own.setdefault(name, []).append(value)
            size += abs(y)
            losses += [max(p * (y - v), (p - 1) * (y - v)) for p, v in zip(LEVELS, q, strict=True)]
        last = counted[:, s, horizon - 1]
        if last.any():
            y, q = actual[last, s, horizon - 1], quantiles[:, last, s, horizon - 1]
            coverages[s] = float(np.mean((q[1] <= y) & (y <= q[3])))
            own["width_90"] = list(q[3] - q[1])
        for name, values in own.items():
            found.setdefault(name, []).append(float(np.mean(values)))
    means: dict[str, Any] = {name: float(np.mean(values)) for name, values in found.items()}
    return means | {"wql": float(np.mean(2 * losses / size)), "coverages": coverages}


@given(
    seed=st.integers(0, 2**32 - 1),
    windows=st.integers(1, 8),
    series=st.integers(1, 3),
    horizon=st.integers(1, 4),
    cuts=st.lists(st.integers(0, 8), max_size=3),
)
def test_measures_summed_over_blocks_equal_their_definitions(
    seed: int, windows: int, series: int, horizon: int, cuts: list[int]
) -> None:
    actual, quantiles, counted = block(seed, windows, series, 4)
    unit = np.arange(1.0, series + 1)
    tally = Tally(LEVELS, series, 4)
    for first, stop in zip([0, *sorted(cuts)], [*sorted(cuts), windows], strict=True):
        tally.add(actual[first:stop], quantiles[:, first:stop], counted[first:stop])
    found, expected = (
        tally.measures(horizon, unit),
        looped_measures(actual, quantiles, counted, horizon, unit),
    )
    assert found.count == counted[:, :, :horizon].sum()
    for name in ("mse", "mae", "mase", "smape", "msis", "wql", "width_90"):
        assert getattr(found, name) == pytest.approx(expected.get(name, math.nan), rel=1e-9, nan_ok=True), (
            name
        )
    covered = {s: share for s, share in enumerate(found.coverage_by_series) if not math.isnan(share)}
    assert covered == pytest.approx(expected["coverages"])
    mean = float(np.mean(list(covered.values()))) if covered else math.nan
    assert found.coverage_90 == pytest.approx(mean, nan_ok=True)


def point_measures(actual: list[float], point: list[float]) -> Measures:
    tally = Tally((0.5,), 1, 1)
    shape = (len(actual), 1, 1)
    tally.add(np.reshape(actual, shape), np.reshape(point, (1, *shape)), np.ones(shape, bool))
    return tally.measures(1, np.array([2.0]))


def test_a_point_forecast_has_errors_but_nan_interval_measures() -> None:
    found = point_measures([1.0, 3.0], [2.0, 1.0])
    assert (found.mse, found.mae, found.mase) == (2.5, 1.5, 0.75)
    # The WQL of a point forecast is the sum of absolute errors divided by the sum of absolute actuals.
    assert found.wql == 3 / 4
    assert all(math.isnan(x) for x in (found.msis, found.coverage_90, found.width_90))


def test_a_forecast_of_0_for_an_actual_of_0_has_smape_0() -> None:
    found = point_measures([0.0, 0.0], [0.0, 1.0])
    assert found.smape == 100.0  # the sMAPE of the two forecasts is 0 and 200, so the mean is 100
    assert math.isnan(found.wql)


def test_coverage_of_90_percent_needs_the_quantiles_q5_and_q95() -> None:
    tally = Tally((0.1, 0.5, 0.9), 1, 1)
    tally.add(np.zeros((1, 1, 1)), np.zeros((3, 1, 1, 1)), np.ones((1, 1, 1), bool))
    found = tally.measures(1, np.ones(1))
    assert math.isnan(found.coverage_90)
    assert found.msis == 0.0


def test_calibration_and_coverage_are_averaged_over_series() -> None:
    tally = Tally((0.05, 0.5, 0.95), 2, 2)
    actual = np.array([[[0.0, 5.0], [0.0, 0.0]], [[0.0, 5.0], [2.0, 0.0]]])
    quantiles = np.broadcast_to(np.array([-1.0, 0.0, 1.0])[:, None, None, None], (3, 2, 2, 2))
    tally.add(actual, quantiles, np.ones((2, 2, 2), bool))
    assert tally.coverage_by_step().tolist() == [0.75, 0.5]
    assert tally.calibration().tolist() == [0.0, (0.5 + 0.75) / 2, (0.5 + 0.75) / 2]
    assert tally.mase_by_step(np.array([1.0, 2.0])).tolist() == [(0 + 0.5) / 2, (5 + 0) / 2]


def test_seasonal_scale_falls_back_to_window_changes_or_1() -> None:
    seasonal = [1.0, 2.0, 3.0, 5.0, 2.0, 4.0]  # over a season of 3 windows, the values change by 4, 0 and 1
    # The values do not change over a season; from window to window, they change by 2, 1, 1, 2 and 1.
    periodic = [1.0, 3.0, 2.0, 1.0, 3.0, 2.0]
    short = [np.nan, np.nan, np.nan, np.nan, 2.0, 4.0]
    gaps = [1.0, np.nan, 3.0, 5.0, 2.0, np.nan]
    constant, never = [7.0, 7.0, 7.0, 7.0 + 1e-15, 7.0, 7.0], [np.nan] * 6
    found = seasonal_scale(np.array([seasonal, periodic, short, gaps, constant, never]).T, 3)
    assert found.tolist() == [5 / 3, 7 / 5, 2.0, 4.0, 1.0, 1.0]
