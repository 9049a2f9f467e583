from __future__ import annotations

import numpy as np
import pytest

from forecaster.state import State
from forecaster.stepping import advance, rewarm
from forecaster.windows import Windows
from schemas.errors import ModelError
from tests.fleets import START, assert_same_state, forecaster


def test_a_rewarmed_state_keeps_the_moments_of_all_that_was_ever_seen() -> None:
    old, new = forecaster("lstm", ring=6), forecaster("rnn", ring=9)
    values = np.random.default_rng(0).normal(100, 5, (40, 3))
    values[25:, 1] = np.nan  # so long silent that its ring is empty
    state, _ = advance(old, old.initial_state(), Windows(("a", "b", "c"), START, values))
    warm = rewarm(new, state)
    assert sorted(warm.series_ids) == ["a", "b", "c"]
    warm = warm.take(np.array([warm.series_ids.index(name) for name in state.series_ids]))
    for name in ("clock", "observed", "mean", "variance", "last", "age"):
        np.testing.assert_array_equal(getattr(state, name), getattr(warm, name), err_msg=name)
    assert warm.ring.shape == (9, 3)
    np.testing.assert_array_equal(warm.ring[3:], state.ring)
    assert np.isnan(warm.ring[:3]).all()


def test_series_of_different_clocks_are_rewarmed_each_to_its_own() -> None:
    old, new = forecaster("lstm", ring=20), forecaster("gru", ring=20)
    values = np.random.default_rng(0).normal(size=(9, 2))
    parts, cold = [], []
    for column, (name, stop) in enumerate((("a", 9), ("b", 5))):
        fleet = Windows((name,), START, values[:stop, [column]])
        parts.append(advance(old, old.initial_state(), fleet)[0])
        cold.append(advance(new, new.initial_state(), fleet)[0])
    assert_same_state(State.join(cold), rewarm(new, State.join(parts)))


def test_a_state_of_the_same_weights_is_left_as_it_is() -> None:
    state = forecaster().unseen(("a",), START)
    assert rewarm(forecaster(), state) is state


def test_a_state_of_other_windows_cannot_be_rewarmed() -> None:
    with pytest.raises(ModelError, match="3600 s windows"):
        rewarm(forecaster(freq="30m"), forecaster().unseen(("a",), START))
