"""Tests of the re-warming of a state for another model version, at once or while a stream runs."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.components.ring import in_order
from forecaster.config import NetworkConfig
from forecaster.model import Forecaster
from forecaster.state import State, live
from forecaster.stepping.advance import advance
from forecaster.stepping.rewarming import Warming, rewarm
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from schemas.errors import ModelError
from tests.comparisons import assert_same_state
from tests.fleets import START, forecaster


def test_rewarming_keeps_clocks_and_moments_and_ring_values() -> None:
    old, new = forecaster("lstm", ring=6), forecaster("rnn", ring=9)
    values = np.random.default_rng(0).normal(100, 5, (40, 3))
    # Series b has no values in the last 15 windows. That is longer than either ring, so its rings are empty.
    values[25:, 1] = np.nan
    state, _ = advance(old, old.initial_state(), Windows(("a", "b", "c"), START, values))
    rewarmed = rewarm(new, state)
    assert rewarmed.series_ids == state.series_ids
    np.testing.assert_array_equal(state.clock, rewarmed.clock)
    np.testing.assert_array_equal(state.silent, rewarmed.silent)
    for name, array in state.parts["moments"].items():
        np.testing.assert_array_equal(array, rewarmed.parts["moments"][name], err_msg=name)
    new_ring, old_ring = (in_order(s.parts["ring"]["values"], s.clock) for s in (rewarmed, state))
    assert new_ring.shape == (3, 9)
    np.testing.assert_array_equal(new_ring[:, 3:], old_ring)
    assert np.isnan(new_ring[:, :3]).all()


def test_rewarming_without_a_ring_keeps_moments_but_resets_network() -> None:
    config = NetworkConfig(hidden=4, horizon=3, lags=(), ring=0)
    old, new = (Forecaster.untrained(config, WindowConfig(), seed) for seed in (1, 2))
    state, _ = advance(old, old.initial_state(), Windows(("a",), START, np.array([[1.0], [2.0], [5.0]])))
    rewarmed = rewarm(new, state)
    np.testing.assert_array_equal(rewarmed.parts["network"]["hidden"], new.network.init(1)["hidden"])
    np.testing.assert_array_equal(rewarmed.parts["moments"]["mean"], state.parts["moments"]["mean"])
    assert live(rewarmed).all()
    _, forecasts = advance(new, rewarmed, Windows(("a",), START + 3, np.array([[4.0]])))
    assert np.isfinite(forecasts.values).all()


def test_a_retired_series_stays_retired_after_rewarming() -> None:
    old, new = forecaster("lstm", max_gap=3), forecaster("gru", max_gap=3)
    state, _ = advance(old, old.initial_state(), Windows(("a",), START, np.array([[1.0], *[[np.nan]] * 6])))
    rewarmed = rewarm(new, state)
    assert not live(rewarmed).any()
    _, forecasts = advance(new, rewarmed, Windows(("a",), START + 7, np.array([[2.0]])))
    assert forecasts.cold_starts == 1


def test_rewarming_series_of_different_lengths_equals_stepping_each_alone() -> None:
    old, new = forecaster("lstm", ring=20), forecaster("gru", ring=20)
    values = np.random.default_rng(0).normal(size=(9, 2))
    parts, cold = [], []
    for column, (name, stop) in enumerate((("a", 9), ("b", 5))):
        fleet = Windows((name,), START, values[:stop, [column]])
        parts.append(advance(old, old.initial_state(), fleet)[0])
        cold.append(advance(new, new.initial_state(), fleet)[0])
    assert_same_state(State.join(cold), rewarm(new, State.join(parts)))


def test_rewarming_a_state_of_the_same_version_returns_the_state() -> None:
    state = forecaster().new_series_state(("a",), START)
    assert rewarm(forecaster(), state) is state


def test_rewarming_a_state_of_another_frequency_raises_an_error() -> None:
    with pytest.raises(ModelError, match="windows of 1h"):
        rewarm(forecaster(freq="30m"), forecaster().new_series_state(("a",), START))


@pytest.mark.parametrize(("before", "after"), [(12, 336), (336, 12)])
def test_rewarming_recomputes_the_seasonal_scale_for_another_season_length(before: int, after: int) -> None:
    old, new = forecaster("lstm", ring=before), forecaster("lstm", ring=after, seed=2)
    hours = np.arange(900)[:, None]
    values = 3 * np.sin(2 * np.pi * hours / 24) + np.random.default_rng(0).normal(0, 0.1, (900, 1))
    state, _ = advance(old, old.initial_state(), Windows(("a",), START, values[:500]))
    rewarmed = rewarm(new, state)
    kept = min(before, 336)
    old_ring, _ = advance(
        new, new.initial_state(), Windows(("a",), START + 500 - kept, values[500 - kept : 500])
    )
    for name in ("seasonal", "seasons"):
        np.testing.assert_array_equal(rewarmed.parts["moments"][name], old_ring.parts["moments"][name])
    np.testing.assert_array_equal(rewarmed.parts["moments"]["mean"], state.parts["moments"]["mean"])
    whole, _ = advance(new, new.initial_state(), Windows(("a",), START, values))
    rewarmed, _ = advance(new, rewarmed, Windows(("a",), START + 500, values[500:]))
    ratio = rewarmed.parts["moments"]["seasonal"] / whole.parts["moments"]["seasonal"]
    assert 0.8 < float(ratio[0]) < 1.25


def test_rewarming_a_model_with_more_lags_relearns_least_squares() -> None:
    old, new = forecaster("lstm", ring=12), forecaster("lstm", ring=48, seed=2)
    values = np.random.default_rng(0).normal(size=(200, 1)).cumsum(axis=0)
    state, _ = advance(old, old.initial_state(), Windows(("a",), START, values))
    rewarmed = rewarm(new, state)
    assert int(rewarmed.parts["least_squares"]["known"][0]) == 12
    same = rewarm(forecaster("gru", ring=12), state)
    assert int(same.parts["least_squares"]["known"][0]) == 200


def test_warming_finish_equals_rewarm_if_last_closed_windows_differ() -> None:
    """`Warming.finish` re-warms if a live series is behind or past the window before the model change."""
    old, new = forecaster("lstm", ring=20), forecaster("gru", ring=20)
    values = np.random.default_rng(0).normal(size=(9, 2))
    ahead, behind = (
        advance(old, old.initial_state(), Windows((name,), START, values[:stop, [column]]))[0]
        for column, (name, stop) in enumerate((("a", 9), ("b", 5)))
    )
    state = State.join([ahead, behind])
    assert_same_state(rewarm(new, state), Warming(new, START + 5).finish(state))


def test_warming_and_rewarm_give_equal_states_without_a_ring() -> None:
    config = NetworkConfig(hidden=4, horizon=3, lags=(), ring=0)
    old, new = (Forecaster.untrained(config, WindowConfig(), seed) for seed in (1, 2))
    state, _ = advance(old, old.initial_state(), Windows(("a",), START, np.array([[1.0], [2.0], [5.0]])))
    warming = Warming(new, START + 3)
    assert not warming.copy_values(state, START + 2)
    assert_same_state(rewarm(new, state), warming.finish(state))


def test_warming_in_steps_equals_rewarm_for_a_retiring_series() -> None:
    old, new = forecaster("lstm", max_gap=3, ring=20), forecaster("gru", max_gap=3, ring=20)
    values = np.array([[1.0], [2.0], *[[np.nan]] * 5, [4.0]])
    fleet = Windows(("a",), START, values)
    state, _ = advance(old, old.initial_state(), fleet.between(START, START + 2))
    warming = Warming(new, fleet.stop)
    assert warming.copy_values(state, START + 1)
    assert warming.step()
    state, _ = advance(old, state, fleet.between(START + 2, fleet.stop))
    assert_same_state(rewarm(new, state), warming.finish(state))
