"""Law: a series that becomes constant raises an alarm near its first constant window, none after its 48th."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.arrays import Floats
from forecaster.config import NetworkConfig, OnlineConfig
from forecaster.model import Forecaster
from forecaster.stepping.advance import advance_in_place
from forecaster.time.window_config import WindowConfig

BEGIN, LENGTH, WINDOWS = 500, 350, 1000
model = Forecaster.untrained(
    NetworkConfig(hidden=8, horizon=1), WindowConfig(), online=OnlineConfig(alarms_per_week=7.0)
)
seeds = st.integers(0, 2**32 - 1)


def cases(*parts: st.SearchStrategy[Any]) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Return a strategy that draws four tuples, each with one value from each strategy in ``parts``.

    The series of all four tuples are stepped together, which takes hardly longer than for one tuple.
    """
    return st.lists(st.tuples(*parts), min_size=4, max_size=4)


def stepped(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Step a forecaster through ``values`` ``[T, S]``; return p-values, alarms and medians.

    Returns:
        For each value its p-value, its alarm and the median of the forecast issued right after it, each
        ``[T, S]``.
    """
    state = model.new_series_state(tuple(str(s) for s in range(values.shape[1])), 0)
    parts = [
        advance_in_place(model, state, values[first : first + 250], first)
        for first in range(0, len(values), 250)
    ]
    p_value, alarm = np.concatenate([part.anomaly for part in parts if part.anomaly is not None], axis=1)
    return p_value, alarm, np.concatenate([part.values[1, :, :, 0] for part in parts])


def active(seed: int) -> dict[str, Floats]:
    """Return one series ``[WINDOWS]`` of each kind, by the name of the kind; none stays constant for long."""
    rng, at = np.random.default_rng(seed), np.arange(WINDOWS)
    noise = rng.normal(size=WINDOWS)
    return {
        "noise": noise,
        "day": 50 + 8 * np.sin(2 * np.pi * at / 24) + noise,
        "walk": noise.cumsum(),
        "counts": rng.poisson(3, WINDOWS).astype(float),
        "rounded": np.round(20 + 3 * noise),
        "shop": np.where(at % 24 > 8, rng.poisson(9, WINDOWS), 0.0),
    }


def flat(values: Floats, begins: str) -> Floats:
    """Copy a series, and set the `LENGTH` windows from `BEGIN` on to a constant; return the copy.

    The constant is the last value before them, 0, or a larger value, depending on ``begins``.
    """
    values, last = values.copy(), values[BEGIN - 1]
    values[BEGIN : BEGIN + LENGTH] = {"stays": last, "falls": 0.0, "jumps": last + 60.0}[begins]
    return values


@settings(max_examples=2)
@given(drawn=cases(seeds, st.sampled_from([0.0, 0.1])))
def test_a_flat_line_raises_alarms_only_near_its_start(drawn: list[tuple[int, float]]) -> None:
    parts = []
    for seed, gaps in drawn:
        series = [
            flat(one, begins) for begins in ("stays", "falls", "jumps") for one in active(seed).values()
        ]
        parts.append(np.stack(series, axis=1))
        parts[-1][np.random.default_rng(seed).random(parts[-1].shape) < gaps] = np.nan
    p_value, alarm, _ = stepped(np.concatenate(parts, axis=1))
    assert (np.nansum(alarm[BEGIN + 1 : BEGIN + LENGTH], axis=0) <= 1).all()
    assert (np.nansum(alarm[BEGIN + 48 : BEGIN + LENGTH], axis=0) == 0).all()
    assert np.nansum(alarm[BEGIN - 24 : BEGIN + 48] == 1, axis=0).min() >= 1
    # docs/alarms.md states that p-values stay low while a series is constant.
    assert np.nanmax(p_value[BEGIN + 100 : BEGIN + LENGTH]) < 0.1


@settings(max_examples=2)
@given(drawn=cases(seeds, st.sampled_from([0.0, 7.0, -300.0, 1e9]), st.sampled_from([1e-12, 1.0, 1e12])))
def test_each_spike_of_a_constant_series_raises_one_alarm(drawn: list[tuple[int, float, float]]) -> None:
    parts, levels = [], np.repeat([level * unit for _, level, unit in drawn], 6)
    spikes = np.zeros((WINDOWS, len(levels)), bool)
    for number, (seed, level, unit) in enumerate(drawn):
        rng = np.random.default_rng(seed)
        for s in range(6):
            at = rng.choice(np.arange(60, WINDOWS - 40, 60), s, replace=False) + rng.integers(30)
            spikes[at, 6 * number + s] = True
        sizes = rng.choice([-3.0, 0.5, 1.0, 40.0, 1e6], (WINDOWS, 6)) * max(abs(level), 1.0)
        parts.append((level + spikes[:, 6 * number : 6 * number + 6] * sizes) * unit)
    _, alarm, median = stepped(np.concatenate(parts, axis=1))
    np.testing.assert_array_equal(np.nan_to_num(alarm) == 1, spikes)
    # Only the forecast just after a spike may differ from the level, because the spike is the last value.
    np.testing.assert_allclose(median[~spikes], np.tile(levels, (WINDOWS, 1))[~spikes], rtol=1e-6)


@settings(max_examples=2)
@given(drawn=cases(seeds, st.sampled_from([0.5, 3.0, -40.0])))
def test_a_jump_between_two_constant_levels_raises_one_alarm(drawn: list[tuple[int, float]]) -> None:
    at = np.concatenate([np.random.default_rng(seed).integers(60, WINDOWS - 100, 4) for seed, _ in drawn])
    size = np.repeat([size for _, size in drawn], 4)
    values = 5.0 + size * (np.arange(WINDOWS)[:, None] >= at)
    _, alarm, median = stepped(values)
    for s, first in enumerate(at):
        assert np.flatnonzero(alarm[:, s] == 1).tolist() == [first]
        np.testing.assert_allclose(median[first:, s], 5.0 + size[s], rtol=1e-6)


@settings(max_examples=2)
@given(drawn=cases(seeds, st.sampled_from([40.0, -60.0])))
def test_a_lasting_level_change_raises_some_but_few_alarms(drawn: list[tuple[int, float]]) -> None:
    changed = np.arange(WINDOWS)[:, None] >= BEGIN
    values = [np.stack([*active(seed).values()], axis=1) + size * changed for seed, size in drawn]
    _, alarm, _ = stepped(np.concatenate(values, axis=1))
    raised = np.nansum(alarm, axis=0)
    assert (np.nansum(alarm[BEGIN - 24 : BEGIN + 48], axis=0) >= 1).all()
    assert (raised <= model.online_config.alarms_per_week * WINDOWS / 168 + 7).all()
