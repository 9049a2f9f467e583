"""Tests of `PointIntervals`, which makes prediction intervals for point forecasts from their past errors."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from forecaster.arrays import Floats
from forecaster.evaluation.point_intervals import PointIntervals
from tests.fleets import HOUR

LEVELS, HORIZON, MIDDLE = (0.05, 0.5, 0.95), 3, 1
FAR = 30  # this horizon is longer than some of the blocks that a test steps through


def quantiles(values: Floats, points: dict[str, Floats], cuts: list[int]) -> dict[str, Floats]:
    """Return the quantiles that `PointIntervals` computes from point forecasts, in blocks split at ``cuts``.

    Returns:
        The quantiles ``[Q, T, S, N]`` of each member.
    """
    horizon = next(iter(points.values())).shape[2]
    made = PointIntervals(tuple(points), LEVELS, horizon, np.ones(values.shape[1]), HOUR)
    parts = []
    for first, stop in zip([0, *cuts], [*cuts, len(values)], strict=True):
        some = {name: point[first:stop] for name, point in points.items()}
        parts.append(made.step(first, values[first:stop], some))
    return {name: np.concatenate([part[name] for part in parts], axis=1) for name in points}


def noise(windows: int, series: int = 2, seed: int = 0, horizon: int = HORIZON) -> tuple[Floats, Floats]:
    """Return noise ``[T, S]``, and ``[T, S, N]`` forecasts of 0 for ``N`` horizons.

    The noise of series ``s`` has the standard deviation ``s + 1``.
    """
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(windows, series)) * np.arange(1, series + 1)
    return values, np.zeros((windows, series, horizon))


def test_intervals_of_point_forecasts_cover_90_percent_of_actuals() -> None:
    values, zero = noise(3000)
    found = quantiles(values, {"zero": zero}, [])["zero"]
    for n in range(1, HORIZON + 1):
        inside = (found[0, 500:-n, :, n - 1] <= values[500 + n :]) & (
            values[500 + n :] <= found[2, 500:-n, :, n - 1]
        )
        np.testing.assert_allclose(inside.mean(axis=0), 0.9, atol=0.015)
    np.testing.assert_array_equal(found[MIDDLE], zero)


@given(
    seed=st.integers(0, 1000),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    horizon=st.sampled_from([HORIZON, FAR]),
)
def test_intervals_of_point_forecasts_do_not_depend_on_block_sizes(
    seed: int, cuts: list[int], horizon: int
) -> None:
    values, zero = noise(60, seed=seed, horizon=horizon)
    values[np.random.default_rng(seed).random(values.shape) < 0.2] = np.nan
    one = quantiles(values, {"zero": zero}, [])["zero"]
    two = quantiles(values, {"zero": zero}, sorted(cuts))["zero"]
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


def test_point_intervals_do_not_depend_on_other_members_and_series() -> None:
    values, zero = noise(60)
    both = quantiles(values, {"zero": zero, "one": zero + 1.0}, [20])
    for name, point in (("zero", zero), ("one", zero + 1.0)):
        np.testing.assert_allclose(both[name], quantiles(values, {name: point}, [20])[name])
        first = quantiles(values[:, :1], {name: point[:, :1]}, [20])[name]
        np.testing.assert_allclose(both[name][:, :, :1], first)


def test_windows_without_point_forecasts_do_not_affect_later_intervals() -> None:
    values, zero = noise(80)
    late = zero.copy()
    late[:30] = np.nan
    found = quantiles(values, {"late": late}, [10, 50])["late"]
    assert np.isnan(found[:, :30]).all()
    np.testing.assert_allclose(found[:, 30:], quantiles(values[30:], {"z": zero[30:]}, [20])["z"])
