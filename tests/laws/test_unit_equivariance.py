"""Law: if a series is scaled or shifted, its forecasts are scaled or shifted by the same number.

The law of shifts holds only for some series, because the forecaster takes the logarithms of positive series,
and a shift changes logarithms. So the tests shift only series below 0, and series so far above 0 that their
logarithms are almost linear in the values.

The tests draw no shift above 2^38 scales, because values are float64, with 53 bits. If the level of a series
is 2^38 times its scale, 15 bits remain for the changes, and forecasts differ by some hundred rounding errors
of the level. From 2^40 scales on, rounding errors decide whether a value equals its forecast. The float32
arrays of the state do not limit the level: they contain only differences from the last value, divided by the
scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
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
    """The outputs of a forecaster for a fleet, with windows on the second axis, and its last state.

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
            np.where(noise[:, 2] > 1, 5.0, 0.0),
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


def assert_transformed(one: Result, other: Result, values: Floats, factor: float, shift: float) -> None:
    """Assert that each output in ``other`` is ``factor`` times the output in ``one``, plus ``shift``.

    ``one`` holds the outputs for ``values``.
    """
    level = np.nanmax(np.abs(values), axis=0) + abs(shift) / factor
    within = YOUNG * np.nanstd(values, axis=0) + ROUNDINGS * level
    for name in ("values", "network", "members"):
        off = np.abs((getattr(other, name) - shift) / factor - getattr(one, name))
        assert (~np.isnan(off) | np.isnan(getattr(one, name))).all(), name
        largest = np.nanmax(off, axis=(0, 1, 3)) / within
        assert largest.max() <= 1.0, f"{name} of series {largest.argmax()} is off by {largest.max()}"
    off = np.abs(other.anomaly[0] - one.anomaly[0])
    assert (np.nanmedian(off, axis=0) <= 1e-4 + ROUNDINGS * level).all()
    # A p-value is a step function of the value: a small difference may change it by one step.
    assert (np.nanmax(off, axis=0) <= 0.05 + ROUNDINGS * level).all()


factors = st.one_of(
    st.integers(-50, 50).map(lambda power: 2.0**power),
    st.floats(-15, 15).map(lambda power: 10.0**power),
)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@given(
    seed=st.integers(0, 2**32 - 1),
    factor=factors,
    level=st.sampled_from([0.0, -20.0, 1e3, 1e6, -1e9, 2.0**36]),
)
@example(seed=0, factor=1e-15, level=0.0)
@example(seed=1, factor=1e15, level=-20.0)
@example(seed=2, factor=1e-15, level=2.0**36)
def test_forecasts_do_not_depend_on_the_unit_of_values(
    cell: str, seed: int, factor: float, level: float
) -> None:
    model, values = forecaster(cell, **SHORT_WEEK), kinds(seed) + level
    assert_transformed(run(model, values), run(model, factor * values), values, factor, 0.0)


@given(seed=st.integers(0, 2**32 - 1), power=st.integers(-50, 50))
def test_scaling_by_a_power_of_2_changes_no_bit_of_a_forecast(seed: int, power: int) -> None:
    model, values, factor = forecaster(**SHORT_WEEK), kinds(seed), 2.0**power
    one, other = run(model, values), run(model, factor * values)
    for name in ("values", "network", "members"):
        # Allow tiny differences: the scale of a series of zeros is a constant, whatever the unit.
        atol = 1e-140 / min(factor, 1.0)
        np.testing.assert_allclose(getattr(other, name) / factor, getattr(one, name), 0.0, atol, err_msg=name)
    np.testing.assert_array_equal(other.anomaly, one.anomaly)


@given(seed=st.integers(0, 2**32 - 1), power=st.integers(0, 30), factor=factors)
def test_the_unit_of_an_observed_covariate_changes_no_forecast(seed: int, power: int, factor: float) -> None:
    model = forecaster(observed=("heat",))
    values, heat = kinds(seed), kinds(seed + 1)
    one = run(model, values, heat)
    assert_transformed(one, run(model, values, factor * heat), values, 1.0, 0.0)
    assert_transformed(one, run(model, values, heat + 2.0**power), values, 1.0, 0.0)


@given(seed=st.integers(0, 2**32 - 1), power=st.integers(0, 38))
@example(seed=0, power=38)
def test_shifting_a_negative_series_shifts_its_forecasts(seed: int, power: int) -> None:
    model, values = forecaster(**SHORT_WEEK), kinds(seed) - 64.0
    assert_transformed(run(model, values), run(model, values - 2.0**power), values, 1.0, -(2.0**power))


@given(seed=st.integers(0, 2**32 - 1), power=st.integers(20, 38))
@example(seed=0, power=38)
def test_shifting_a_series_far_above_zero_shifts_its_forecasts(seed: int, power: int) -> None:
    model, values = forecaster(**SHORT_WEEK), kinds(seed) + 2.0**26
    assert_transformed(run(model, values), run(model, values + 2.0**power), values, 1.0, 2.0**power)


@pytest.mark.parametrize("level", [1.7e9, 1e12])
@pytest.mark.parametrize("factor", [1e-12, 1.0, 1e15])
def test_small_changes_at_a_high_level_are_learned(level: float, factor: float) -> None:
    model, rng = forecaster(**SHORT_WEEK), np.random.default_rng(0)
    wave = 5.0 * np.sin(np.arange(300.0)) + rng.normal(size=300)
    values: Floats = factor * (level + wave[:, None])
    before, after = model.new_series_state(("s0",), START).parts, run(model, values).state.parts
    assert (after["least_squares"]["weights"] != 0).all()
    assert (after["intervals"]["known"] > 200).all()
    assert (after["intervals"]["offset"] != before["intervals"]["offset"]).all()


@pytest.mark.parametrize("factor", [1e-15, 0.1, 1e12])
def test_least_squares_learns_nothing_from_rounding_errors(factor: float) -> None:
    rng = np.random.default_rng(0)
    noise = 2.0**-52 * rng.integers(-1, 2, size=(60, 1)).astype(np.float64)
    values: Floats = factor * 0.3 * (1.0 + noise)
    after = run(forecaster(**SHORT_WEEK), values).state.parts
    assert (after["least_squares"]["weights"] == 0).all()


def trained_on(values: Floats, heat: Floats, factor: float, linear: bool) -> Trained:
    """Return the result of training on ``values``, ``heat``, and a known covariate times ``factor``."""
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
def test_network_weights_do_not_depend_on_the_unit_of_values(power: int, linear: bool) -> None:
    values, heat, factor = kinds(0), kinds(1), 2.0**power
    one = trained_on(values, heat, 1.0, linear)
    other = trained_on(factor * values, factor * heat, factor, linear)
    assert [without_seconds(epoch) for epoch in one.history] == [without_seconds(e) for e in other.history]
    weights = one.forecaster.network.state_dict()
    for name, weight in other.forecaster.network.state_dict().items():
        np.testing.assert_array_equal(weight.numpy(), weights[name].numpy(), err_msg=name)


def without_seconds(epoch: dict[str, float]) -> dict[str, float]:
    return {name: number for name, number in epoch.items() if name != "seconds"}


def test_a_network_trained_at_another_level_has_shifted_forecasts() -> None:
    values, shift = kinds(0) - 64.0, -(2.0**24)
    one, other = (trained_on(v, v, 1.0, True).forecaster for v in (values, values + shift))
    first, second = run(one, values, values), run(other, values + shift, values + shift)
    # Compare from window 20 on: the scale after one value is a share of the value and depends on the level.
    off = np.abs(second.values - shift - first.values)[:, 20:].max(axis=(0, 1, 3))
    spread = np.nanstd(values, axis=0)
    assert (off <= 1e-2 * spread + ROUNDINGS * abs(shift)).all()
