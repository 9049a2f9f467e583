"""Law: a flat line raises one alarm when it begins, and none while it lasts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.arrays import Floats
from forecaster.config import NetworkConfig, OnlineConfig
from forecaster.model import Forecaster
from forecaster.stepping import advance_in_place
from forecaster.time.window_config import WindowConfig

AT, LASTS, WINDOWS = 500, 350, 1000
model = Forecaster.untrained(
    NetworkConfig(hidden=8, horizon=1), WindowConfig(), online=OnlineConfig(alarms_per_week=7.0)
)


def stepped(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the p-values and alarms ``[T, S]`` of values ``[T, S]``, and the medians of the next values."""
    state = model.unseen(tuple(str(s) for s in range(values.shape[1])), 0)
    parts = [
        advance_in_place(model, state, values[first : first + 250], first)
        for first in range(0, len(values), 250)
    ]
    p_value, alarm = np.concatenate([part.anomaly for part in parts if part.anomaly is not None], axis=1)
    return p_value, alarm, np.concatenate([part.values[1, :, :, 0] for part in parts])


def active(seed: int) -> dict[str, Floats]:
    """Return series ``[WINDOWS]`` that never stand still for long, by their kind."""
    chance, at = np.random.default_rng(seed), np.arange(WINDOWS)
    noise = chance.normal(size=WINDOWS)
    return {
        "noise": noise,
        "day": 50 + 8 * np.sin(2 * np.pi * at / 24) + noise,
        "walk": noise.cumsum(),
        "counts": chance.poisson(3, WINDOWS).astype(float),
        "rounded": np.round(20 + 3 * noise),
        "shop": np.where(at % 24 > 8, chance.poisson(9, WINDOWS), 0.0),
    }


def flat(values: Floats, begins: str) -> Floats:
    """Return a series whose sensor hangs for `LASTS` windows at its last value, at 0, or at another level."""
    values, last = values.copy(), values[AT - 1]
    values[AT : AT + LASTS] = {"hangs": last, "falls": 0.0, "jumps": last + 60.0}[begins]
    return values


@pytest.mark.parametrize("begins", ["hangs", "falls", "jumps"])
@settings(max_examples=4)
@given(seed=st.integers(0, 2**32 - 1), gaps=st.sampled_from([0.0, 0.1]))
def test_a_flat_line_raises_one_alarm_when_it_begins(begins: str, seed: int, gaps: float) -> None:
    series = np.stack([flat(values, begins) for values in active(seed).values()], axis=1)
    series[np.random.default_rng(seed).random(series.shape) < gaps] = np.nan
    p_value, alarm, _ = stepped(series)
    assert (np.nansum(alarm[AT + 1 : AT + LASTS], axis=0) <= 1).all()
    assert (np.nansum(alarm[AT + 48 : AT + LASTS], axis=0) == 0).all()
    assert np.nansum(alarm[AT - 24 : AT + 48] == 1, axis=0).min() >= 1
    assert np.nanmax(p_value[AT + 100 : AT + LASTS]) < 0.1  # it stays low, as docs/alarms.md says


@settings(max_examples=4)
@given(
    seed=st.integers(0, 2**32 - 1),
    level=st.sampled_from([0.0, 7.0, -300.0, 1e9]),
    unit=st.sampled_from([1e-12, 1.0, 1e12]),
)
def test_each_spike_of_a_constant_raises_one_alarm(seed: int, level: float, unit: float) -> None:
    chance = np.random.default_rng(seed)
    values = np.full((WINDOWS, 6), level)
    spikes = np.zeros(values.shape, bool)
    for s in range(6):
        at = chance.choice(np.arange(60, WINDOWS - 40, 60), s, replace=False) + chance.integers(30)
        spikes[at, s] = True
    sizes = chance.choice([-3.0, 0.5, 1.0, 40.0, 1e6], values.shape) * max(abs(level), 1.0)
    values = (values + spikes * sizes) * unit
    _, alarm, median = stepped(values)
    np.testing.assert_array_equal(np.nan_to_num(alarm) == 1, spikes)
    # Only at the spike itself, which is the last value then, may a forecast be of another level.
    np.testing.assert_allclose(median[~spikes], level * unit, rtol=1e-6)


@settings(max_examples=4)
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([0.5, 3.0, -40.0]))
def test_a_constant_that_steps_raises_one_alarm_at_the_step(seed: int, size: float) -> None:
    at = np.random.default_rng(seed).integers(60, WINDOWS - 100, 4)
    values = np.full((WINDOWS, 4), 5.0) + size * (np.arange(WINDOWS)[:, None] >= at)
    _, alarm, median = stepped(values)
    for s, first in enumerate(at):
        assert np.flatnonzero(alarm[:, s] == 1).tolist() == [first]
        np.testing.assert_allclose(median[first:, s], 5.0 + size, rtol=1e-6)


@settings(max_examples=4)
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([40.0, -60.0]))
def test_a_series_at_a_new_level_raises_no_alarm_for_being_there(seed: int, size: float) -> None:
    steady = np.stack([*active(seed).values()], axis=1)
    values = steady + size * (np.arange(WINDOWS)[:, None] >= AT)
    _, alarm, _ = stepped(values)
    raised = np.nansum(alarm, axis=0)
    assert (np.nansum(alarm[AT - 24 : AT + 48], axis=0) >= 1).all()
    assert (raised <= model.online_config.alarms_per_week * WINDOWS / 168 + 7).all()
