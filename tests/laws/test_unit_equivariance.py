"""Law: if a series is scaled or shifted, its forecasts are scaled or shifted by the same number.

The law of shifts holds only for some series, because the forecaster takes the logarithms of positive series,
and a shift changes logarithms. So the tests shift only series below 0, and series so far above 0 that their
logarithms are almost linear in the values.

The tests draw no shift above 2^38 scales, because values are float64, with 53 bits. If the level of a series
is 2^38 times its scale, 15 bits remain for the changes, and forecasts differ by some hundred rounding errors
of the level. From 2^40 scales on (for a few positive series, from 2^36 scales on), rounding errors decide
whether a value equals its forecast. The float32 arrays of the state do not limit the level: they contain only
differences from the last value, divided by the scale.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from forecaster.arrays import Floats
from forecaster.config import NetworkConfig, OnlineConfig, TrainingConfig
from forecaster.covariates.encoding import Table, Tables
from forecaster.forecasts import Forecasts
from forecaster.model import Forecaster
from forecaster.state import State
from forecaster.stepping.advance import advance_in_place
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from forecaster.training.train import Trained, train
from tests.comparisons import YOUNG
from tests.fleets import HOUR_US, SHORT_WEEK, START, forecaster

WINDOWS = 90
ROUNDINGS = 2000 * 2.0**-53  # largest rounding error of means and regressions, as a multiple of the level


@dataclass
class Result:
    """The outputs of a forecaster for a fleet, and its state after the last window.

    The second axis of each output array is the window.

    Attributes:
        values: quantiles of the combined forecasts.
        network: quantiles of the network.
        members: forecasts of all members.
        anomaly: ``[2, T, S]``, p-values and alarms.
        state: the state after the last window.
    """

    values: Floats
    network: Floats
    members: Floats
    anomaly: Floats
    state: State


def run(model: Forecaster, values: Floats, heat: Floats | None = None) -> Result:
    """Return the outputs of a forecaster for ``values`` and the observed covariate ``heat`` ``[T, S]``."""
    state = model.new_series_state(tuple(f"s{i}" for i in range(values.shape[1])), START)
    parts: list[Forecasts] = []
    for first in range(0, len(values), 40):
        rows = slice(first, first + 40)
        past = None if heat is None else heat[rows, :, None]
        parts.append(advance_in_place(model, state, values[rows], START + first, True, past))
    members = [np.stack(list(part.members.values())) for part in parts]
    assert all(part.network is not None and part.anomaly is not None for part in parts)
    return Result(
        np.concatenate([part.values for part in parts], axis=1),
        np.concatenate([part.network for part in parts if part.network is not None], axis=1),
        np.concatenate(members, axis=1),
        np.concatenate([part.anomaly for part in parts if part.anomaly is not None], axis=1),
        state,
    )


def kinds(seed: int) -> Floats:
    """Return the values of 9 kinds of series, ``[WINDOWS, 9]``.

    The values are rounded to multiples of 1/1024, so that shifting them causes no rounding error.
    """
    rng = np.random.default_rng(seed)
    noise, t = rng.normal(size=(WINDOWS, 9)), np.arange(WINDOWS)
    values = np.stack(
        [
            noise[:, 0].cumsum(),
            3.0 * (t % 2) + noise[:, 1],
            # Until a series changes for the first time, its scale depends on its level, so a shift changes
            # the scale. This series is 0 in most windows. It is always 5 in windows 0, 2 and 4, so that it
            # changes early.
            np.where((noise[:, 2] > 1) | (t < 5) & (t % 2 == 0), 5.0, 0.0),
            4.0 * np.repeat(noise[::18, 3], 18),
            0.3 * t + noise[:, 4],
            np.exp(noise[:, 5]),
            np.full(WINDOWS, 3.0),
            noise[:, 7] + 40.0 * (t == 50),
            np.where(t < 10, 1.0, noise[:, 8]),
        ],
        axis=1,
    )
    values = np.round(values * 1024) / 1024
    values[rng.random(values.shape) < 0.1] = np.nan
    return values


def assert_transformed(
    one: Result, other: Result, values: Floats, factor: Floats | float, shift: Floats | float
) -> None:
    """Assert that the forecasts in ``other`` are ``factor`` times the forecasts in ``one``, plus ``shift``.

    The anomaly p-values of both must be almost equal. ``one`` holds the outputs for ``values``. ``factor``
    and ``shift`` are numbers, or arrays ``[S]``.
    """
    level = np.nanmax(np.abs(values), axis=0) + np.abs(shift) / factor
    within = YOUNG * np.nanstd(values, axis=0) + ROUNDINGS * level
    factors, shifts = (
        np.reshape(number, (-1, 1)) for number in (factor, shift)
    )  # the last axis of the forecasts is the horizon
    for name in ("values", "network", "members"):
        off = np.abs((getattr(other, name) - shifts) / factors - getattr(one, name))
        assert (~np.isnan(off) | np.isnan(getattr(one, name))).all(), name
        largest = np.nanmax(off, axis=(0, 1, 3)) / within
        assert largest.max() <= 1.0, f"{name} of series {largest.argmax()} is off by {largest.max()}"
    off = np.abs(other.anomaly[0] - one.anomaly[0])
    assert (np.nanmedian(off, axis=0) <= 1e-4 + ROUNDINGS * level).all()
    # The forecaster computes p-values from shares: for each of several fixed distances, it keeps the share of
    # earlier values that were at least that far from their forecasts. A rounding error may move a value
    # across one of the distances, and so change a share by at most 0.05.
    assert (np.nanmax(off, axis=0) <= 0.05 + ROUNDINGS * level).all()


factors = st.one_of(
    st.integers(-50, 50).map(lambda power: 2.0**power),
    st.floats(-15, 15).map(lambda power: 10.0**power),
)
seeds = st.integers(0, 2**32 - 1)


def cases(*parts: st.SearchStrategy[Any]) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Return a strategy for lists of six tuples; each tuple has one value from each strategy in ``parts``.

    A test makes one copy of `kinds` for each tuple. The six copies are stepped together, which takes about
    as long as stepping one copy.
    """
    return st.lists(st.tuples(*parts), min_size=6, max_size=6)


def side_by_side(seeds: Iterable[int], levels: Iterable[float]) -> Floats:
    """Return the array ``kinds(seed) + level`` of each pair of seed and level, joined along the series."""
    return np.concatenate([kinds(seed) + level for seed, level in zip(seeds, levels, strict=True)], axis=1)


def of_each_series(numbers: Iterable[float]) -> Floats:
    """Return an array ``[S]`` that repeats each number 9 times, once for each series of a copy of `kinds`."""
    return np.repeat(np.array([*numbers], float), 9)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@settings(max_examples=2)
@given(drawn=cases(seeds, factors, st.sampled_from([0.0, -20.0, 1e3, 1e6, -1e9, 2.0**36])))
@example(drawn=[(0, 1e-15, 0.0), (1, 1e15, -20.0), (2, 1e-15, 2.0**36)])
def test_values_times_a_factor_give_forecasts_times_that_factor(
    cell: str, drawn: list[tuple[int, float, float]]
) -> None:
    copies, units, levels = zip(*drawn, strict=True)
    model, values = forecaster(cell, **SHORT_WEEK), side_by_side(copies, levels)
    factor = of_each_series(units)
    assert_transformed(run(model, values), run(model, factor * values), values, factor, 0.0)


@settings(max_examples=2)
@given(drawn=cases(seeds, st.integers(-50, 50)))
def test_scaling_by_a_power_of_2_scales_forecasts_exactly(drawn: list[tuple[int, int]]) -> None:
    copies, powers = zip(*drawn, strict=True)
    model, values = forecaster(**SHORT_WEEK), side_by_side(copies, [0.0] * len(copies))
    factor = 2.0 ** of_each_series(powers)
    one, other = run(model, values), run(model, factor * values)
    for name in ("values", "network", "members"):
        # Allow tiny differences: while a series has only zeros, its scale is a constant, whatever the factor.
        atol = 1e-140 / min(factor.min(), 1.0)
        found = getattr(other, name) / factor[:, None]
        np.testing.assert_allclose(found, getattr(one, name), 0.0, atol, err_msg=name)
    np.testing.assert_array_equal(other.anomaly, one.anomaly)


@settings(max_examples=2)
@given(drawn=cases(seeds, st.integers(0, 30), factors))
def test_scaling_or_shifting_an_observed_covariate_changes_no_forecast(
    drawn: list[tuple[int, int, float]],
) -> None:
    model = forecaster(observed=("heat",))
    copies, powers, units = zip(*drawn, strict=True)
    levels = [0.0] * len(copies)
    values, heat = side_by_side(copies, levels), side_by_side([seed + 1 for seed in copies], levels)
    one = run(model, values, heat)
    assert_transformed(one, run(model, values, of_each_series(units) * heat), values, 1.0, 0.0)
    assert_transformed(one, run(model, values, heat + 2.0 ** of_each_series(powers)), values, 1.0, 0.0)


def assert_shifted(level: float, shift: float, drawn: list[tuple[int, int]]) -> None:
    """Assert that forecasts of shifted series are shifted by the same number as the series.

    For each seed and power in ``drawn``, the series are `kinds` of the seed plus ``level``, and they are
    shifted by ``shift * 2**power``.
    """
    copies, powers = zip(*drawn, strict=True)
    model, values = forecaster(**SHORT_WEEK), side_by_side(copies, [level] * len(copies))
    shifts = shift * 2.0 ** of_each_series(powers)
    assert_transformed(run(model, values), run(model, values + shifts), values, 1.0, shifts)


@settings(max_examples=2)
@given(drawn=cases(seeds, st.integers(0, 38)))
@example(drawn=[(0, 38)])
def test_shifting_a_negative_series_shifts_its_forecasts(drawn: list[tuple[int, int]]) -> None:
    assert_shifted(-64.0, -1.0, drawn)


@settings(max_examples=2)
@given(drawn=cases(seeds, st.integers(20, 35)))
@example(drawn=[(0, 38)])
def test_shifting_a_series_of_large_values_shifts_its_forecasts(drawn: list[tuple[int, int]]) -> None:
    assert_shifted(2.0**26, 1.0, drawn)


def test_small_changes_at_a_high_level_are_learned() -> None:
    model, rng = forecaster(**SHORT_WEEK), np.random.default_rng(0)
    wave = 5.0 * np.sin(np.arange(300.0)) + rng.normal(size=300)
    series = [factor * (level + wave) for level in (1.7e9, 1e12) for factor in (1e-12, 1.0, 1e15)]
    after = run(model, np.stack(series, axis=1)).state
    before = model.new_series_state(after.series_ids, START).parts
    assert (after.parts["least_squares"]["weights"] != 0).all()
    assert (after.parts["intervals"]["known"] > 200).all()
    assert (after.parts["intervals"]["offset"] != before["intervals"]["offset"]).all()


def test_least_squares_weights_stay_zero_with_only_rounding_noise() -> None:
    rng = np.random.default_rng(0)
    noise = 2.0**-52 * rng.integers(-1, 2, size=(60, 1)).astype(np.float64)
    values: Floats = np.array([1e-15, 0.1, 1e12]) * 0.3 * (1.0 + noise)
    after = run(forecaster(**SHORT_WEEK), values).state.parts
    assert (after["least_squares"]["weights"] == 0).all()


def trained_on(values: Floats, heat: Floats, factor: float, linear: bool) -> Trained:
    """Train with the observed covariate ``heat`` and a known covariate proportional to ``factor``."""
    hours = pl.Series((START + np.arange(2 * WINDOWS)) * HOUR_US).cast(pl.Datetime("us", "UTC"))
    price = factor * np.random.default_rng(0).integers(0, 9, 2 * WINDOWS)
    known = Table(pl.DataFrame({"timestamp": hours, "price": price}))
    network = NetworkConfig(hidden=4, layers=1, horizon=3, lags=(1, 2), ring=24, decoder=True, linear=linear)
    training = TrainingConfig(epochs=2, segment=16, validation=0.2, backtest=0.1)
    ids = tuple(f"s{i}" for i in range(values.shape[1]))
    windows = Windows(ids, START, values, {"heat": heat})
    return train(windows, network, training, WindowConfig(), online=OnlineConfig(), tables=Tables(known))


@pytest.mark.parametrize("power", [-50, 50])
@pytest.mark.parametrize("linear", [True, False])
def test_multiplying_all_values_does_not_change_trained_network_weights(power: int, linear: bool) -> None:
    values, heat, factor = kinds(0), kinds(1), 2.0**power
    one = trained_on(values, heat, 1.0, linear)
    other = trained_on(factor * values, factor * heat, factor, linear)
    assert [without_seconds(epoch) for epoch in one.history] == [without_seconds(e) for e in other.history]
    weights = one.forecaster.network.state_dict()
    for name, weight in other.forecaster.network.state_dict().items():
        np.testing.assert_array_equal(weight.numpy(), weights[name].numpy(), err_msg=name)


def without_seconds(epoch: dict[str, float]) -> dict[str, float]:
    return {name: number for name, number in epoch.items() if name != "seconds"}


def test_training_on_shifted_values_shifts_the_forecasts() -> None:
    values, shift = kinds(0) - 64.0, -(2.0**24)
    one, other = (trained_on(v, v, 1.0, True).forecaster for v in (values, values + shift))
    first, second = run(one, values, values), run(other, values + shift, values + shift)
    # Leave out the first 20 windows: the scale of a series with only one value is a share of that value,
    # so the shift changes this scale.
    off = np.abs(second.values - shift - first.values)[:, 20:].max(axis=(0, 1, 3))
    spread = np.nanstd(values, axis=0)
    assert (off <= 1e-2 * spread + ROUNDINGS * abs(shift)).all()
