"""Tests of `advance`, which steps a state through windows and returns the new state and the forecasts."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from forecaster.components.ring import in_order
from forecaster.config import NetworkConfig
from forecaster.model import Forecaster
from forecaster.state import State, live
from forecaster.stepping.advance import advance, advance_in_place
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from schemas.errors import DataError, VersionMismatch
from schemas.forecasts import check_forecasts
from tests.comparisons import Floats, Key, assert_same, assert_same_state, by_key, exploded
from tests.fleets import HOUR_US, START, forecaster, rows_of, scales

NAN = np.nan


def windows(*columns: list[float], start: int = START) -> Windows:
    return Windows(tuple("abcdef"[: len(columns)]), start, np.array(columns).T.reshape(-1, len(columns)))


def test_advancing_by_rows_or_by_windows_gives_equal_forecasts() -> None:
    model = forecaster()
    fleet = windows([1, 2, NAN, 4], [NAN, 5, 6, 7])
    rows = rows_of(fleet).sample(fraction=1, shuffle=True, seed=0)
    by_rows, one = advance(model, model.initial_state(), rows)
    by_windows, other = advance(model, model.initial_state(), fleet)
    assert_same(by_key([one]), by_key([other]), scales(fleet))
    assert_same_state(by_rows, by_windows)


def test_a_series_is_forecast_from_its_first_value_on() -> None:
    model = forecaster()
    state, forecasts = advance(model, model.initial_state(), windows([1, 2, 3], [NAN, 5, NAN], [NAN] * 3))
    assert state.series_ids == ("a", "b")
    assert sorted(by_key([forecasts])) == [
        *(("a", START + t) for t in range(3)),
        *(("b", START + t) for t in (1, 2)),
    ]
    assert len(forecasts) == len(forecasts.frame()) == 5


def test_advance_also_steps_series_that_have_no_rows() -> None:
    model = forecaster()
    state, _ = advance(model, model.initial_state(), windows([1, 2], [3, 4]))
    after, forecasts = advance(model, state, Windows(("a",), START + 2, np.array([[9.0]])))
    assert sorted(by_key([forecasts])) == [("a", START + 2), ("b", START + 2)]
    assert after.clock.tolist() == [START + 2] * 2
    assert after.silent.tolist() == after.parts["moments"]["age"].tolist() == [0, 1]
    ring = after.parts["ring"]["values"]
    assert ring[:, (START + 2) % 8].tolist() == pytest.approx([9.0, NAN], nan_ok=True)


def test_new_series_are_added_after_the_existing_series() -> None:
    model = forecaster()
    state, _ = advance(model, model.initial_state(), Windows(("z", "m"), START, np.ones((1, 2))))
    state, _ = advance(model, state, Windows(("a", "m", "z"), START + 1, np.ones((1, 3))))
    assert state.series_ids == ("z", "m", "a")


def test_empty_zero_fills_gaps_of_live_series_with_0() -> None:
    model = forecaster(empty="zero")
    state, forecasts = advance(model, model.initial_state(), windows([NAN, 3, NAN, NAN]))
    assert state.parts["moments"]["observed"].tolist() == [3]
    ring = in_order(state.parts["ring"]["values"], state.clock)
    assert ring[0, -4:].tolist() == pytest.approx([NAN, 3, 0, 0], nan_ok=True)
    assert state.silent.tolist() == [2]  # windows without rows count as silent, although their value is 0
    assert sorted(by_key([forecasts])) == [("a", START + t) for t in (1, 2, 3)]


def test_a_value_for_a_closed_window_is_refused() -> None:
    model = forecaster()
    state, _ = advance(model, model.initial_state(), windows([1, 2], [1, 2]))
    with pytest.raises(DataError, match=r"1 values .* already closed .* 'b'"):
        advance(model, state, windows([NAN, NAN, 3], [NAN, 7, 3]))
    # Closed windows may be passed again if they have no values.
    after, forecasts = advance(model, state, windows([NAN, NAN, 3], [NAN, NAN, 3]))
    assert len(forecasts) == 2
    assert after.clock.tolist() == [START + 2] * 2


def test_advance_changes_none_of_its_arguments() -> None:
    model = forecaster()
    fleet = windows([1, NAN, 3, 4], [NAN, NAN, 5, 6])
    state, _ = advance(model, model.initial_state(), fleet.between(START, START + 2))
    kept = state.copy()
    values = fleet.values.copy()
    weights = model.to_bytes()
    advance(model, state, fleet.between(START + 2, START + 4))
    assert state.to_bytes() == kept.to_bytes()
    np.testing.assert_array_equal(fleet.values, values)
    assert model.to_bytes() == weights


def test_forecast_frames_match_the_forecast_schema() -> None:
    network = NetworkConfig(hidden=4, horizon=3, quantiles=(0.025, 0.5, 0.9), lags=(1,), ring=2)
    model = Forecaster.untrained(network, WindowConfig())
    _, forecasts = advance(model, model.initial_state(), windows([1, 2, 4], [1e9, 1e9 + 1, NAN]))
    frame = check_forecasts(forecasts.frame())
    fields = {"horizon": pl.Int16, "q2.5": pl.Float64, "q50": pl.Float64, "q90": pl.Float64}
    assert frame.schema["forecast"] == pl.List(pl.Struct(fields))
    assert frame["issued_at"].dt.epoch("us").unique().sort().to_list() == [
        (START + t + 1) * HOUR_US for t in range(3)
    ]
    row = exploded(frame.filter(pl.col("series_id") == "b").tail(1))
    assert row["horizon"].to_list() == [1, 2, 3]
    assert row.select((pl.col("q2.5") <= pl.col("q50")).all() & (pl.col("q50") <= pl.col("q90")).all()).item()
    np.testing.assert_array_equal(row["q50"].to_numpy(), forecasts.values[1, 2, 1])
    assert abs(row["q50"][0] - 1e9) < 10


def test_advance_without_series_gives_no_forecasts() -> None:
    model = forecaster()
    state, forecasts = advance(model, model.initial_state(), Windows((), START, np.empty((5, 0))))
    assert len(state) == len(forecasts) == 0
    assert forecasts.frame().is_empty()
    assert check_forecasts(forecasts.frame()).is_empty()


def test_advance_in_place_gives_the_forecasts_and_state_of_advance() -> None:
    """`advance` returns a new state; `advance_in_place` changes the given state."""
    model = forecaster(max_gap=3)
    values = np.random.default_rng(0).normal(size=(40, 7)).cumsum(axis=0)
    values[np.random.default_rng(1).random(values.shape) < 0.4] = NAN
    names = tuple("abcdefg")
    copied, in_place = model.new_series_state(names, START), model.new_series_state(names, START)
    for first in (0, 1, 2, 9, 30):
        stop = {0: 1, 1: 2, 2: 9, 9: 30, 30: 40}[first]
        copied, one = advance(model, copied, Windows(names, START + first, values[first:stop]))
        two = advance_in_place(model, in_place, values[first:stop], START + first)
        np.testing.assert_array_equal(one.values, two.values)
        np.testing.assert_array_equal(one.issued, two.issued)
        assert one.cold_starts == two.cold_starts
    assert_same_state(copied, in_place)


def test_a_series_without_a_value_so_far_is_not_forecast() -> None:
    model = forecaster()
    state = model.new_series_state(("a", "b"), START)
    first = advance_in_place(model, state, np.array([[1.0, NAN], [2.0, NAN]]), START)
    assert first.issued.tolist() == [[True, False]] * 2
    assert np.isnan(first.values[:, :, 1]).all()
    assert live(state).tolist() == [True, False]
    second = advance_in_place(model, state, np.array([[3.0, NAN], [4.0, 5.0], [NAN, NAN]]), START + 2)
    assert second.issued.tolist() == [[True, False], [True, True], [True, True]]
    _, alone = advance(model, model.initial_state(), windows([5, NAN], start=START + 3))
    np.testing.assert_allclose(second.values[:, 1:, 1], alone.values[:, :, 0], rtol=1e-6)
    assert second.cold_starts == 0


@pytest.mark.parametrize("empty", ["missing", "zero"])
def test_a_series_silent_for_more_than_max_gap_windows_retires(empty: str) -> None:
    model = forecaster(empty=empty, max_gap=2)
    state = model.new_series_state(("a",), START)
    forecasts = advance_in_place(model, state, np.array([[1.0], [NAN], [NAN], [NAN], [NAN]]), START)
    assert forecasts.issued[:, 0].tolist() == [True, True, True, False, False]
    assert forecasts.cold_starts == 0
    assert not live(state).any()
    assert state.silent.tolist() == [4]
    blank = model.new_series_state(("a",), START)
    for name, own in state.parts.items():
        for field, array in own.items():
            np.testing.assert_array_equal(array, blank.parts[name][field], err_msg=field)


def test_a_series_that_retires_twice_has_two_cold_starts() -> None:
    """After a cold start, a series is forecast as a new series."""
    model = forecaster(max_gap=1)
    state, forecasts = advance(
        model, model.initial_state(), windows([1, NAN, NAN, 2, NAN, NAN, 3, 4], [5] * 8)
    )
    assert forecasts.cold_starts == 2
    assert forecasts.issued[:, 0].tolist() == [True, True, False, True, True, False, True, True]
    fresh, alone = advance(model, model.initial_state(), windows([3, 4], start=START + 6))
    np.testing.assert_allclose(forecasts.values[:, 6:, 0], alone.values[:, :, 0], rtol=1e-6)
    assert_same_state(state.take(np.array([0])), fresh)


def test_skipping_windows_without_live_series_changes_no_forecast() -> None:
    model = forecaster(max_gap=2)
    with_gap, skipped = (model.new_series_state(("a", "b"), START) for _ in range(2))
    for state in (with_gap, skipped):
        advance_in_place(model, state, np.array([[1.0, NAN], [NAN, NAN], [NAN, NAN], [NAN, NAN]]), START)
    advance_in_place(model, with_gap, np.full((1, 2), NAN), START + 4)
    last = np.array([[7.0, 8.0]])
    one, two = (advance_in_place(model, state, last, START + 5) for state in (with_gap, skipped))
    np.testing.assert_array_equal(one.values, two.values)
    assert one.cold_starts == two.cold_starts == 1
    assert_same_state(with_gap, skipped)


def test_a_series_that_returns_after_years_creates_no_windows_in_the_gap() -> None:
    model = forecaster(max_gap=2)
    state, _ = advance(model, model.initial_state(), windows([1, NAN, NAN, NAN]))
    state, forecasts = advance(model, state, windows([5], start=START + 100_000))
    assert forecasts.issued.shape == (1, 1)
    assert forecasts.cold_starts == 0  # after so long a gap, the series counts as new, which is no cold start
    assert state.silent.tolist() == [0]


def test_advance_in_place_refuses_skipped_windows_of_live_series() -> None:
    model = forecaster()
    state, _ = advance(model, model.initial_state(), windows([1]))
    with pytest.raises(ValueError, match=r"the live series 'a' has not been stepped"):
        advance_in_place(model, state, np.array([[1.0]]), START + 2)


def test_advance_in_place_refuses_a_state_of_another_model() -> None:
    state = forecaster(seed=1).new_series_state(("a",), START)
    with pytest.raises(VersionMismatch):
        advance_in_place(forecaster(seed=2), state, np.array([[1.0]]), START)


def test_advance_continues_series_that_stopped_at_different_windows() -> None:
    model = forecaster(max_gap=4)
    values = np.random.default_rng(0).normal(size=(12, 3))
    values[3:9, 1] = NAN
    states: list[State] = []
    expected: dict[Key, Floats] = {}
    for s, (name, stop) in enumerate((("a", 2), ("b", 4), ("c", 7))):
        whole = Windows((name,), START, values[:, [s]])
        states.append(advance(model, model.initial_state(), whole.between(START, START + stop))[0])
        alone = by_key([advance(model, model.initial_state(), whole)[1]])
        expected |= {key: value for key, value in alone.items() if key[1] >= START + stop}
    late = values.copy()
    for s, stop in enumerate((2, 4, 7)):
        late[:stop, s] = NAN
    fleet = Windows(("a", "b", "c"), START, late)
    _, forecasts = advance(model, State.join(states), fleet.between(START + 2, START + 12))
    assert_same(expected, by_key([forecasts]), scales(fleet))


def test_a_forecast_frame_holds_exactly_the_issued_forecasts() -> None:
    model = forecaster(max_gap=2)
    fleet = windows([1, 2, NAN, NAN, NAN, NAN], [NAN, NAN, 5, NAN, 6, 7])
    _, forecasts = advance(model, model.initial_state(), fleet)
    frame = check_forecasts(forecasts.frame())
    assert len(frame) == len(forecasts) == 8
    for key, values in by_key([forecasts]).items():
        end_us = (key[1] + 1) * HOUR_US
        of_key = frame.filter(series_id=key[0]).filter(pl.col("issued_at").dt.epoch("us") == end_us)
        np.testing.assert_array_equal(exploded(of_key).select("q5", "q50", "q95").to_numpy().T, values)


@pytest.mark.parametrize("share", [0.0, 2.0])
def test_forecasts_do_not_change_if_retired_series_are_stepped_too(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = forecaster(max_gap=3)
    values = np.random.default_rng(2).normal(size=(30, 6)).cumsum(axis=0)
    values[np.random.default_rng(3).random(values.shape) < 0.5] = NAN
    values[:20, 4] = NAN
    values[:, 5] = NAN
    names = tuple("abcdef")
    one_state, other_state = model.new_series_state(names, START), model.new_series_state(names, START)
    one = advance_in_place(model, one_state, values, START)
    monkeypatch.setattr("forecaster.stepping.step_block._CALL_STEPS", 24)
    monkeypatch.setattr("forecaster.stepping.step_block._MOSTLY", share)
    other = advance_in_place(model, other_state, values, START)
    assert_same(by_key([one]), by_key([other]), scales(Windows(names, START, values)))
    assert_same_state(one_state, other_state)


def test_stepping_series_in_groups_gives_equal_forecasts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = forecaster(max_gap=3)
    rng = np.random.default_rng(4)
    values = rng.normal(size=(20, 11)).cumsum(axis=0)
    values[rng.random(values.shape) < 0.4] = np.nan
    fleet = Windows(tuple(f"s{i}" for i in range(11)), START, values)
    whole_state, whole = advance(model, model.initial_state(), fleet)
    monkeypatch.setattr("forecaster.stepping.advance._CALL_SERIES", 3)
    some_state, some = advance(model, model.initial_state(), fleet)
    assert whole.cold_starts == some.cold_starts > 0
    assert_same(by_key([whole]), by_key([some]), scales(fleet))
    assert_same_state(whole_state, some_state)
